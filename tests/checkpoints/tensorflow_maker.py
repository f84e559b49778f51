"""Write the small TensorFlow checkpoints in ``tensorflow_files/``; needs tensorflow and tf_keras.

Run ``python tests/checkpoints/tensorflow_maker.py FOLDER``. Those in the repository were written
with tensorflow 2.21.0 and tf_keras 2.21.0 (TensorFlow's pins do not fit those of the other
libraries that write checkpoints here, so that few machines have it).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

#: Step at which each checkpoint of the manager was saved.
STEPS = (100, 250, 900)


def values(*shape: int, shift: float = 0.0) -> np.ndarray:
    """Return numbers that tell every place in an array."""
    return (np.arange(np.prod(shape, dtype=int)).reshape(shape) / 4 + shift).astype(np.float32)


def write(folder: Path) -> None:
    os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import tensorflow as tf

    class Net(tf.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.embed = tf.Variable(values(5, 3))
            self.layers = [tf.Variable(values(3, 2)), tf.Variable(values(2, shift=0.5))]
            self.half = tf.Variable(tf.cast(values(4), tf.bfloat16))
            self.words = tf.Variable(np.array(["a", "bc"]))

    net = Net()
    setattr(net, "odd.name/x", tf.Variable(values(2)))
    optimizer = tf.keras.optimizers.Adam()
    optimizer.build([net.embed])
    step = tf.Variable(0, dtype=tf.int64)
    checkpoint = tf.train.Checkpoint(model=net, optimizer=optimizer, step=step)
    manager = tf.train.CheckpointManager(checkpoint, str(folder / "manager"), max_to_keep=None)
    for number in STEPS:
        step.assign(number)
        net.embed.assign(values(5, 3, shift=number))
        manager.save()
    tf.saved_model.save(net, str(folder / "exported"))
    for parts in ({"a/kernel": values(3, 2)}, {"b/kernel": values(2, 4), "step": np.int64(70)}):
        part = str(folder / f"part-{len(parts)}")
        tf.raw_ops.SaveV2(
            prefix=part,
            tensor_names=list(parts),
            shape_and_slices=[""] * len(parts),
            tensors=list(parts.values()),
        )
    (folder / "two_files").mkdir()
    tf.raw_ops.MergeV2Checkpoints(
        checkpoint_prefixes=[str(folder / "part-1"), str(folder / "part-2")],
        destination_prefix=str(folder / "two_files" / "both"),
    )
    _saver(tf, folder / "saver")
    _keras(folder / "keras")


def _saver(tf: Any, folder: Path) -> None:
    """Save by names, as TensorFlow 1 did."""
    old = tf.compat.v1
    with tf.Graph().as_default():
        kernel = old.get_variable("dense/kernel", initializer=values(3, 2))
        parted = old.get_variable("parted", shape=(6, 2), partitioner=old.fixed_size_partitioner(2))
        count = old.train.get_or_create_global_step()
        loss = tf.reduce_sum(kernel) + tf.reduce_sum(tf.convert_to_tensor(parted))
        old.train.AdamOptimizer().minimize(loss, global_step=count)
        with old.Session() as session:
            session.run(old.global_variables_initializer())
            session.run(old.assign(count, 31))
            saver = old.train.Saver()
            saver.save(session, str(folder / "model.ckpt"), 31, write_meta_graph=False)
    (folder / "checkpoint").unlink()  # names the folder it was written to


def _keras(folder: Path) -> None:
    """Save weights in the format of Keras 2."""
    import tf_keras

    layers = tf_keras.layers
    net = tf_keras.Sequential(
        [layers.Embedding(7, 4, input_length=2), layers.Flatten(), layers.Dense(7)]
    )
    net.compile("sgd", "mse")
    net.build((None, 2))
    net.set_weights([values(7, 4), values(8, 7), values(7)])
    net.optimizer.iterations.assign(12)
    net.save_weights(str(folder / "cp-0003.ckpt"))


if __name__ == "__main__":
    write(Path(sys.argv[1]))
