# SPDX-License-Identifier: Apache-2.0
"""Code for one Keras backend, apart from input pipelines and error types.

Keras chooses its backend when it is imported. Only TensorFlow is implemented;
with any other backend, importing this package raises one clear error.
"""

import keras

if keras.backend.backend() != "tensorflow":
    raise ImportError(
        "keras_bn needs the TensorFlow backend of Keras: set "
        "KERAS_BACKEND=tensorflow before Keras is imported. Received: "
        f"KERAS_BACKEND={keras.backend.backend()}"
    )
