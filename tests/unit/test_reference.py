"""The reference of configuration keys in README.md."""

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from ftlib.config.reference import BEGIN, END, JOBS, main, render, replaced
from ftlib.config.train import TrainReplayConfig

README = Path(__file__).parents[2] / "README.md"


def test_readme_is_current():
    assert README.read_text(encoding="utf-8") == replaced(README.read_text(encoding="utf-8")), "run make docs"


def keys_of(value: BaseModel, prefix: str = "") -> list[str]:
    """Key paths of the leaves of a real configuration: an oracle that does not look at annotations."""
    found = []
    for name in type(value).model_fields:
        child = getattr(value, name)
        found += keys_of(child, f"{prefix}{name}.") if isinstance(child, BaseModel) else [f"{prefix}{name}"]
    return found


def test_every_key_is_listed_with_a_description():
    train = {"data": {"path": "d", "packing": False}, "model": {"source": "m"}, "output": {"path": "o"}}
    train |= {"parallel": {"strategy": "ddp"}, "privacy": {"epsilon": 8}}
    config = JOBS["train"].model_validate(train)
    # Not validated: no run may have both optional sections.
    replayed = config.data.model_copy(update={"replay": TrainReplayConfig(path="r")})
    config = config.model_copy(update={"data": replayed})
    section = render().split("### jobs.train\n")[1].split("\n### ")[0]
    listed = re.findall(r"^\| `([^`]+)` ", section, re.MULTILINE)
    for optional in ("data.replay", "privacy"):  # a section that may be left out has a line of its own
        listed.remove(optional)
    assert listed == [key for key in keys_of(config) if not key.startswith("cluster.") and key != "seed"]
    for line in render().splitlines():
        if line.startswith("| `"):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            assert len(cells) == 4 and all(cells), line


def test_types_defaults_and_bounds_are_shown():
    page = render()
    assert "| `method.rank` | int ≥ 1 | `16` |" in page
    assert "| `method.kind` | `lora`, `qlora`, `full` | `lora` |" in page
    assert "| `data.path` | path | **required** |" in page
    assert "| `train` | the keys of `jobs.train` | **required** |" in page


def test_check_and_write(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nSTALE\n{END}\nafter\n")
    assert main(["--check", str(page)]) == 1
    assert main(["--write", str(page)]) == 0
    assert main(["--check", str(page)]) == 0
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "STALE" not in text
    page.write_text("no markers")
    with pytest.raises(ValueError, match="markers"):
        main(["--check", str(page)])
