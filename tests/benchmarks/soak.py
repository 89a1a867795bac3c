"""Whether memory and open files stay as they are over hundreds of epochs.

    KERAS_BACKEND=jax python tests/benchmarks/soak.py [EPOCHS]

trains a tiny network with all that `training.fit` does in an epoch (validation, best model, CSV,
state, TensorBoard) and prints, of this process, MB resident and open files after some epochs.
"""

import sys
import tempfile

import keras
import psutil

from keras_sanet import FCN, datasets, pipeline, training

SHOWN = 8  # rows


class Watch(keras.callbacks.Callback):
    def __init__(self, epochs):
        super().__init__()
        self.epochs, self.process = epochs, psutil.Process()

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % max(1, self.epochs // SHOWN) == 0 or epoch in (0, 4):
            memory = self.process.memory_info().rss / 1e6
            print(f"{epoch + 1:6} {memory:10.1f} MB {self.process.num_fds():6} files", flush=True)


def main(epochs):
    keras.utils.set_random_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        datasets.scenes.write(f"{folder}/scenes", size=(32, 48), splits={"train": 8, "val": 4})
        data = datasets.load("scenes", f"{folder}/scenes")
        train = pipeline.make_dataset(data, "train", crop_size=(32, 48), batch_size=4, seed=0)
        val = pipeline.make_dataset(data, "val", batch_size=4, training=False)
        model = FCN(data.num_classes, "resnet_tiny", filters=8)
        print(f"{keras.backend.backend()}, {epochs} epochs of {len(train)} steps")
        watch = Watch(epochs)
        training.fit(
            model, train, val, folder=f"{folder}/run", epochs=epochs, verbose=0, callbacks=[watch],
            logger="tensorboard",
        )  # fmt: skip


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 400)
