# SPDX-License-Identifier: Apache-2.0
"""What only one Keras backend can do; here and nowhere else in the plugin.

Keras decides the backend when it is imported. Only TensorFlow is implemented;
with any other, importing this package raises one clear error.
"""

import keras

if keras.backend.backend() != "tensorflow":
    raise ImportError(
        "keras_bn needs the TensorFlow backend of Keras: set "
        "KERAS_BACKEND=tensorflow before Keras is imported. Received: "
        f"KERAS_BACKEND={keras.backend.backend()}"
    )
