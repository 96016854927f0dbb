"""The experiment files that come with the package, by name: `quickstart` is `configs/quickstart.py` of a checkout."""

from __future__ import annotations

import pathlib

from tsrec_jax.errors import UserError
from tsrec_jax.section import near

FOLDER = pathlib.Path(__file__).parent / "configs"


def experiments() -> list[str]:
    """Their names, in order; those of studies begin with `studies/`."""
    return sorted(path.relative_to(FOLDER).with_suffix("").as_posix() for path in FOLDER.rglob("*.py"))


def experiment_file(given: str) -> pathlib.Path:
    """The file that `--config=GIVEN` means: the file at this path, else the experiment of this name.

    Raises:
      UserError: there is neither; the message names the nearest experiment, or all of them.
    """
    if pathlib.Path(given).is_file():
        return pathlib.Path(given)
    names = experiments()
    if given in names:
        return FOLDER / f"{given}.py"
    hint = near(given.removesuffix(".py").removeprefix("configs/"), names, "--config={}")
    raise UserError(f"--config={given}: no such file{hint or '; by name there are ' + ', '.join(names)}")
