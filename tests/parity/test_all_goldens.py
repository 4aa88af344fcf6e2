"""No golden file lies there unread."""

from pathlib import Path

from parity.goldens import FOLDER


def test_every_golden_file_is_named_in_a_test() -> None:
    tests = "\n".join(path.read_text() for path in Path(__file__).parent.glob("*.py"))
    files = [path for path in FOLDER.rglob("*") if path.is_file() and path.suffix in (".safetensors", ".pth")]
    names = {path.parent.name if path.name.startswith("diffusion_pytorch_model") else path.stem for path in files}
    assert len(names) > 30
    assert [name for name in sorted(names) if name not in tests] == []
