# SPDX-License-Identifier: Apache-2.0
"""Handwritten digits, 8x8: real data that come with scikit-learn.

1,797 images of the UCI set "Optical Recognition of Handwritten Digits"
(Alpaydin & Kaynak 1998), pixels 0 to 16.
"""

import numpy as np

from keras_bn.data.arrays import ArrayDataset, binary_rows

TEST_EXAMPLES = 360


def load() -> ArrayDataset:
    """1,437 training and 360 test examples, the classes balanced in both.

    Returns:
        Rows of 64 binary pixels; always the same split.
    """
    from sklearn import datasets, model_selection

    bunch = datasets.load_digits()
    rows = binary_rows(bunch.images, white=16)
    x_train, x_test, y_train, y_test = model_selection.train_test_split(
        rows,
        bunch.target.astype(np.int32),
        test_size=TEST_EXAMPLES,
        stratify=bunch.target,
        random_state=0,
    )
    return ArrayDataset(
        name="digits",
        x_train=x_train,
        y_train=y_train,
        x_test=x_test,
        y_test=y_test,
        classes=10,
    )
