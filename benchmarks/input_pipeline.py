# SPDX-License-Identifier: Apache-2.0
"""Images per second of training batches: our pipeline against Keras'.

    python -m benchmarks.input_pipeline --data_dir=DIR

DIR holds `tiny-imagenet-50.zip` (64 pixels) and `imagenet-sample-100.zip`
(224 pixels). Both pipelines make the same kind of batches: crops of 8 to 100 %
of the area, mirrored at random, with changed brightness and saturation, in
[-1, 1].

- `ours`: from the archive as it is;
- `keras`: `keras.utils.image_dataset_from_directory` over the extracted files,
  one image at a time, then the same operations of `tf.image`, parallel, batched
  and prefetched: the fastest that Keras' function alone offers. It decodes
  whole images and resizes them before they are cropped: to 256 pixels for
  views of 224, as is usual, and to 64 for views of 64.

The time includes starting a pipeline. The files are in the page cache. If other
processes are running, processor seconds say more than wall-clock time.
"""

import os
import statistics
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from absl import app, flags

from benchmarks import measure
from keras_bn import data
from keras_bn.data import augment

FLAGS = flags.FLAGS

#: Archive, size of a view, size that Keras loads images at, images of a round.
SETS = (
    ("tiny-imagenet-50.zip", 64, 64, 6400),
    ("imagenet-sample-100.zip", 224, 256, 800),
)


def augmented(image: Any, label: Any, *, size: int) -> tuple[Any, Any]:
    """What our pipeline does to an image, in the operations of `tf.image`."""
    begin, extent, _ = tf.image.sample_distorted_bounding_box(
        tf.shape(image),
        tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
        aspect_ratio_range=augment.ASPECT,
        area_range=augment.AREA,
        max_attempts=10,
        min_object_covered=0.0,
        use_image_if_no_bounding_boxes=True,
    )
    image = tf.image.resize(tf.slice(image, begin, extent), (size, size))
    image = tf.image.random_flip_left_right(image / 255.0)
    image = tf.image.random_brightness(image, 32 / 255)
    image = tf.image.random_saturation(image, 0.5, 1.5)
    return tf.clip_by_value(image, 0.0, 1.0) * 2.0 - 1.0, label


def of_keras(folder: Path, *, size: int, loaded: int, batch_size: int) -> Any:
    """Batches without end from extracted files."""
    images = keras.utils.image_dataset_from_directory(
        folder,
        batch_size=None,
        image_size=(loaded, loaded),
        seed=0,
        verbose=False,
    )
    return (
        images.map(
            lambda image, label: augmented(image, label, size=size),
            num_parallel_calls=tf.data.AUTOTUNE,
        )
        .repeat()
        .batch(batch_size)
        .prefetch(tf.data.AUTOTUNE)
    )


def extracted(archive: Path, folder: Path) -> Path:
    """The training images as `<class>/<image>`."""
    with zipfile.ZipFile(archive) as images:
        for name in images.namelist():
            *folders, file = name.split("/")
            if name.endswith(".JPEG") and folders[:1] != ["val"]:
                label = folders[-1] if folders else file.split("_")[0]
                target = folder / label / file
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(images.read(name))
    return folder


class Turns:
    """A contestant; in each of its turns a pipeline starts, works and ends.

    A pipeline left running would fill its buffers, and use the processor, while
    the other is measured.
    """

    def __init__(self, batches: Any, count: int) -> None:
        self._batches = batches.take(count)
        self._processor: list[float] = []

    def __call__(self) -> None:
        """Takes the batches of one turn."""
        started = time.process_time()
        for _ in self._batches:
            pass
        self._processor.append(time.process_time() - started)

    def processor_seconds(self) -> float:
        """Median per turn, all cores together, without the warm-up turn."""
        return statistics.median(self._processor[1:])


def compare(
    archive: Path, *, size: int, loaded: int, images: int
) -> dict[str, Any]:
    """Images per second of both pipelines, which take turns."""
    batch_size = FLAGS.batch_size
    count = max(1, images // batch_size)
    with tempfile.TemporaryDirectory() as folder:
        ours = data.load("image_folder", data_dir=archive, image_size=size)
        files = extracted(archive, Path(folder))
        turns = {
            "ours": Turns(
                ours.train(batch_size=batch_size, seed=0, distortion="weak"),
                count,
            ),
            "keras": Turns(
                of_keras(
                    files, size=size, loaded=loaded, batch_size=batch_size
                ),
                count,
            ),
        }
        seconds = measure.interleaved(turns, rounds=FLAGS.rounds)
    processor = {name: turn.processor_seconds() for name, turn in turns.items()}
    taken = count * batch_size
    return {
        "archive": archive.name,
        "size": size,
        "batch_size": batch_size,
        "images": taken,
        "rounds": FLAGS.rounds,
        "load": os.getloadavg()[0],
        "images_per_second": {n: taken / s for n, s in seconds.items()},
        "ratio": seconds["keras"] / seconds["ours"],
        "images_per_processor_second": {
            n: taken / s for n, s in processor.items()
        },
        "processor_ratio": processor["keras"] / processor["ours"],
    }


def main(_: list[str]) -> None:
    """Measures, prints a table, writes the JSON."""
    results = []
    print(
        f"{'images/s':26}{'size':>6}{'ours':>9}{'keras':>9}{'ratio':>8}"
        f"{'ratio of processor seconds':>28}"
    )
    for name, size, loaded, images in SETS:
        result = compare(
            Path(FLAGS.data_dir) / name,
            size=size,
            loaded=loaded,
            images=images,
        )
        results.append(result)
        rates = result["images_per_second"]
        print(
            f"{name:26}{size:6}{rates['ours']:9,.0f}{rates['keras']:9,.0f}"
            f"{result['ratio']:8.2f}{result['processor_ratio']:28.2f}"
        )
    measure.write(FLAGS.output, results)


if __name__ == "__main__":
    flags.DEFINE_string("data_dir", None, "folder of the archives")
    flags.mark_flag_as_required("data_dir")
    flags.DEFINE_integer("batch_size", 32, "images per batch", lower_bound=1)
    flags.DEFINE_integer("rounds", 5, "turns of each", lower_bound=1)
    flags.DEFINE_string(
        "output", "build/bench/input_pipeline.json", "file to write"
    )
    app.run(main)
