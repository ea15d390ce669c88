"""First pictures of a selection of every suite on one sheet: python -m envs.contact_sheet --out docs/contact_sheet.png

The agent's own 64 x 64 pixels, magnified without smoothing, so that a person sees what it sees.
"""

if __name__ == "__main__":
    import tools.startup

import sys
import types
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from envs import make_env
from tools.command_line import Parser, count, picture
from tools.files import expanded, writing
from tools.program import run_program

TASKS = [
    "metaworld_reach",
    "metaworld_button-press",
    "metaworld_window-close",
    "metaworld_drawer-close",
    "metaworld_push",
    "metaworld_stick-push",
    "metaworld_hammer",
    "dmc_cartpole_swingup",
    "dmc_reacher_easy",
    "dmc_cheetah_run",
    "dmc_finger_spin",
    "dmc_ball_in_cup_catch",
    "dmc_walker_walk",
    "dmc_quadruped_walk",
    "pointmass_obstacle",
    "pointmass_lottery",
    "gym_InvertedPendulum-v5",
    "gym_HalfCheetah-v5",
]
COLUMNS = 6
SCALE = 3
MARGIN = 8
TITLE_HEIGHT = 16


def first_picture(task: str, quality: str, seed: int) -> np.ndarray:
    """The picture of a task after reset, uint8 [64, 64, 3]."""
    config = types.SimpleNamespace(
        task=task,
        action_repeat=0,
        time_limit=0,
        render_quality=quality,
        camera="",
        reward="sparse",
        randomize=True,
        starts="paper",
    )
    env = make_env(config, seed)
    image = env.reset()[0]["image"]
    env.close()
    return image


def contact_sheet(pictures: dict[str, np.ndarray]) -> Image.Image:
    """Lays out pictures [64, 64, 3] in rows, each below its name."""
    size = 64 * SCALE
    width, height = size + MARGIN, size + MARGIN + TITLE_HEIGHT
    rows = -(-len(pictures) // COLUMNS)
    sheet = Image.new("RGB", (min(COLUMNS, len(pictures)) * width + MARGIN, rows * height + MARGIN), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for index, (title, image) in enumerate(pictures.items()):
        left, top = MARGIN + index % COLUMNS * width, MARGIN + index // COLUMNS * height
        draw.text((left, top), title, fill="black", font=font)
        enlarged = Image.fromarray(image).resize((size, size), Image.Resampling.NEAREST)
        sheet.paste(enlarged, (left, top + TITLE_HEIGHT))
    return sheet


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program and returns its exit code, see `tools.program`."""
    return run_program(_work, argv, lambda: "no sheet was written; start the same command again")


def _work(argv: Sequence[str]) -> int:
    """Writes the sheet."""
    parser = Parser(prog="python -m envs.contact_sheet", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=picture, default=Path("docs/contact_sheet.png"), help="picture to write")
    parser.add_argument("--tasks", nargs="+", default=TASKS, help="tasks to show")
    parser.add_argument("--quality", choices=("full", "fast"), default="full", help="rendering quality")
    parser.add_argument("--seed", type=count, default=0, help="seed of the environments")
    args = parser.parse_args(argv)
    out = expanded(args.out)
    pictures = {task: first_picture(task, args.quality, args.seed) for task in args.tasks}
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        contact_sheet(pictures).save(out)
    print(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
