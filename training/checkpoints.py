"""Reading checkpoints."""

import tensorflow as tf

from tools.errors import UserError


def restore(checkpoint: tf.train.Checkpoint, path: str, partial: bool = False) -> None:
    """Reads a checkpoint file into objects, each of which must be found in it.

    Args:
      checkpoint: names the objects.
      path: the file, without its suffix.
      partial: whether the file may hold more than these objects.

    Raises:
      UserError: the file is damaged or was made with another configuration.
    """
    try:
        status = checkpoint.restore(path)
        if partial:
            status.expect_partial().assert_existing_objects_matched()
        else:
            status.assert_existing_objects_matched().assert_consumed()
    except (AssertionError, IndexError, ValueError, tf.errors.OpError) as error:  # IndexError: a file cut short
        raise UserError(
            f"The checkpoint {path} does not fit this configuration or is damaged "
            f"({str(error).splitlines()[0][:200]}): "
            "start with the configuration that made it, or choose another --logdir."
        ) from error
