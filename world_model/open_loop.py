"""Open-loop prediction: what the model predicts from the first images and the actions alone."""

import tensorflow as tf

from world_model.images import postprocess, preprocess, reduce_bits
from world_model.ssm import get_feat

CONTEXT = 5  # images that are filtered before the prediction
ROWS = 4  # sequences in a video


def predict_open_loop(model, batch: dict[str, tf.Tensor], noise: tf.Tensor | None = None) -> tf.Tensor:
    """Filters the first `CONTEXT` images of sequences, then rolls the prior out under their actions.

    Args:
        model: a `models.WorldModel`.
        batch: 'image' uint8 [B, L, 64, 64, 3], 'action' [B, L, A] and 'is_first' [B, L].
        noise: standard normal [B, L, noise_size]; None takes means instead of samples.

    Returns:
        features [B, L, n], filtered up to the context and predicted after it.
    """
    image, action, is_first = (batch[key][:, :CONTEXT] for key in ("image", "action", "is_first"))
    first, later = (None, None) if noise is None else (noise[:, :CONTEXT], noise[:, CONTEXT:])
    post, _ = model.dynamics.observe(model.embed(image), action, is_first, first)
    start = {key: value[:, -1] for key, value in post.items()}
    prior = model.dynamics.imagine(start, batch["action"][:, CONTEXT:], later)
    return tf.concat([get_feat(post), get_feat(prior)], 1)


def open_loop_video(model, batch: dict[str, tf.Tensor], bits: int) -> tf.Tensor:
    """Truth, model and error side by side for the first `ROWS` sequences, uint8 [L, ROWS * 64, 3 * 64, 3].

    Args:
        model: a `models.WorldModel`.
        batch: as for `predict_open_loop`.
        bits: of the images' colours that the model sees.
    """
    batch = {key: value[:ROWS] for key, value in batch.items()}
    batch["image"] = reduce_bits(batch["image"], bits)
    decoded, truth = model.decode(predict_open_loop(model, batch)), preprocess(batch["image"])
    video = tf.concat([truth, decoded, (decoded - truth) / 2.0], 3)
    return postprocess(tf.concat(tf.unstack(video), 1))
