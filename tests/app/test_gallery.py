import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from sharpeye.runs.decisions import VERDICTS
from sharpeye_app import gallery

GALLERY = Path(gallery.__file__).parent


@pytest.mark.parametrize("tests", ["queue.test.mjs", "commands.test.mjs"])
def test_the_gallerys_modules(tests: str) -> None:
    """They keep their promises, by node's own test runner."""
    node = shutil.which("node")
    if node is None and not os.environ.get("SHARPEYE_REQUIRE_BROWSER"):
        pytest.skip("needs node")
    assert node is not None, "node is not installed"
    command = [node, "--test", str(Path(__file__).with_name(tests))]
    outcome = subprocess.run(command, capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stdout


def test_the_gallery_is_one_script() -> None:
    script = gallery.component_script()
    assert "class DecisionQueue" in script
    assert not [line for line in script.splitlines() if line.startswith("import ")]
    assert script.count("\nexport ") == 1


def test_a_verdict_s_meaning_stands_in_python_alone() -> None:
    script = gallery.component_script()
    assert 'gives === "suggested"' in script
    for verdict in VERDICTS.values():
        assert f'"{verdict.title}"' not in script


def test_every_key_is_taken_once() -> None:
    script = (GALLERY / "commands.mjs").read_text()
    others = re.findall(r'key: "(.)"', script)
    own = [verdict.key for name, verdict in VERDICTS.items() if name != "relabel"]
    assert len({*others, *own}) == len(others) + len(own)
