"""The manual's settings pages are made from the models."""

import pytest
from support import ROOT

from pwact_like.config.document import main, pages
from pwact_like.config.train import Optimizer


@pytest.mark.parametrize("name", sorted(pages()))
def test_the_committed_pages_are_current(name):
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    assert text == pages()[name], "run: python -m pwact_like.config.document"


def test_every_key_is_described(tmp_path):
    main(tmp_path)
    train = (tmp_path / "settings-train.md").read_text(encoding="utf-8")
    for name in Optimizer.model_fields:
        assert name in ("name", "explicit") or f"| `{name}` |" in train
    assert "| `Rmax` | number | 6 |" in train
    for text in pages().values():
        for line in text.splitlines():
            if line.startswith("| `"):
                cells = [cell.strip() for cell in line.replace("\\|", "").strip("|").split("|")]
                assert len(cells) == 4 and all(cells), line
