"""How laws are run over a component, and what is found out about it first."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
from broken import SOURCE, part_of
from subjects import law_named, subject, written

from vco.testing.examine import case_of, examine, first_settings, laws_of, variants
from vco.testing.law import NotApplicableError, ViolationError
from vco.testing.laws.guidance_options import meaning_of
from vco.testing.sizes import FIXED
from vco.testing.subject import Subject

Change = Callable[..., Subject]


def outcome(of: Subject, law: str) -> str:
    """What is said about a law: "holds", "broken" or the reason for skipping it."""
    try:
        examine(law_named(law, of), of)
    except NotApplicableError as reason:
        return str(reason)
    except ViolationError:
        return "broken"
    return "holds"


def test_what_cannot_be_constructed_is_said_once(change: Change) -> None:
    clock = change("Clock", "self.config, self.streams = config, tuple(setting.streams)", 'raise UserError("never")')
    outcomes = {law.name: outcome(clock, law.name) for law in laws_of(clock) if not law.static}
    assert set(outcomes.values()) == {"the law can-be-constructed is broken"}
    assert outcome(clock, "can-be-constructed") == "broken"
    assert outcome(clock, "options-are-documented") == "holds"


def test_a_user_error_in_use_is_no_refusal_of_settings(change: Change) -> None:
    clock = change(
        "Clock", "        t = torch.rand(batch", '        raise UserError("not today")\n        t = torch.rand(batch'
    )
    with pytest.raises(ViolationError, match="not today"):
        examine(law_named("times-are-in-range", clock), clock)


def test_a_loss_that_does_not_declare_that_it_reads_encoders_is_caught(change: Change) -> None:
    near = change(
        "Near",
        "        self.encoder, _ = chosen_features(setting.features, config.features)\n",
        '        self.encoder = ""\n\n    needs_features: ClassVar[bool] = False\n',
    )
    with pytest.raises(ViolationError, match="does not declare needs_features = True"):
        examine(law_named("output-is-finite", near), near)


def test_a_loss_that_takes_latents_for_pixels_is_caught(change: Change) -> None:
    old = "generated, real = step.generated(self.encoder).tokens.float(), step.real(self.encoder).tokens.float()"
    near = change("Near", old, "generated, real = (x.flatten(2) for x in (step.denoised.clean[IMAGE], step.images))")
    with pytest.raises(ViolationError, match="latents True"):
        examine(law_named("output-is-finite", near), near)


def rewritten(component: str, words: dict[str, str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> Subject:
    """A component of sound.py in which words are others, wherever they stand."""
    text, part = SOURCE.read_text(), part_of(component)
    body = re.sub("|".join(map(re.escape, words)), lambda found: words[found[0]], text[part])
    return subject(component, written(text[: part.start] + body + text[part.stop :], folder, monkeypatch))


SIZED = '''        hidden_size: int = attrs.field(default=1024, validator=ge(1))
        """Token width."""
        layers: int = 24
        """Number of blocks."""
        groups: int = 32
        """What might divide the width."""
        seed: int = 2
        """Another number."""
        tilt: int | None = None
        """A number that may be left out."""
'''


WIDTH = '        width: int = attrs.field(default=16, validator=ge(1))\n        """Token width, at least 1."""\n'


def test_options_of_size_are_found_by_what_they_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = {
        WIDTH: SIZED,
        "self.depth, self.width = config, 3, config.width": (
            "self.depth, self.width = config, config.layers, config.hidden_size"
        ),
    }
    net = rewritten("Net", words, tmp_path, monkeypatch)
    config = first_settings(net)
    assert attrs.asdict(config) == {
        "hidden_size": 16, "layers": 3, "groups": 2, "seed": 2, "tilt": 2, "gate": "tanh"
    }  # fmt: skip
    others = [
        {name for name, value in attrs.asdict(other).items() if value != getattr(config, name)}
        for other in variants(net)
    ]
    assert others == [{"seed"}, {"gate"}]


def test_what_options_of_guidance_mean_is_found_by_what_they_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = {"config.scale": "config.push", "        scale:": "        push:"}
    words |= {f"config.{old}": f"config.{new}" for old, new in (("low", "since"), ("high", "until"), ("drop", "share"))}
    words |= {"        low:": "        since:", "        high:": "        until:", "        drop:": "        share:"}
    guide = rewritten("Guide", words, tmp_path, monkeypatch)
    case: Any = case_of(guide)(subject=guide, config=first_settings(guide), sizes=FIXED[0])
    meaning = meaning_of(case)
    assert (meaning.scales, meaning.lower, meaning.upper, meaning.shares) == (["push"], ["since"], ["until"], ["share"])
    for law in ("scale-1-is-conditional", "interval-is-respected", "shares-are-kept"):
        assert outcome(guide, law) == "holds"
