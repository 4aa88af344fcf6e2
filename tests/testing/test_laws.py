"""What single laws say beyond the mistake that each must catch."""

from collections.abc import Callable

import attrs
import pytest
from broken import SOURCE, part_of
from subjects import law_named, subject

from vco.testing.examine import examine, laws_of
from vco.testing.law import NotApplicableError, ViolationError
from vco.testing.subject import Subject

Change = Callable[..., Subject]


def check(law: str, of: Subject) -> None:
    """Checks one law."""
    examine(law_named(law, of), of)


def test_a_fit_in_float32_is_caught(change: Change) -> None:
    lens = change("Lens", "tokens.double().sum", "tokens.sum")
    with pytest.raises(ViolationError, match="mean is near 3000"):
        check("fit-ignores-order-and-batching", lens)


TERM = '"near": (generated - real).square().mean((1, 2))'


def test_a_loss_may_let_nearly_right_predictions_be(change: Change) -> None:
    lenient = change("Near", TERM, '"near": ((generated - real).square().mean((1, 2)) - 0.05).relu().add(1e-6)')
    check("descent-does-not-lead-away", lenient)


def test_a_backbone_that_refuses_every_edge_does_not_support_blocking(change: Change) -> None:
    old = "        c = self.label("
    net = change("Net", old, f'        if condition.blocked:\n            raise UserError("no")\n{old}')
    with pytest.raises(ViolationError, match="refuses to block any stream from another"):
        check("blocked-streams-change-nothing", net)


def test_a_backbone_may_refuse_some_edges(change: Change) -> None:
    old = "        c = self.label("
    net = change(
        "Net", old, f'        if (FEATURES, IMAGE) in condition.blocked:\n            raise UserError("no")\n{old}'
    )
    for law in ("output-is-finite", "blocked-streams-change-nothing"):
        check(law, net)


FILES = '''
    @attrs.frozen(kw_only=True)
    class Config({kind}.Config):
        """What a user may set."""

        in_file: str = ""
        """Where it lies."""

    def check(self) -> None:
        if self.config.in_file:
            raise UserError(f"there is no file {{self.config.in_file}} (from {option}); get it from a friend")

{head}        self.check()
'''


def with_file(change: Change, component: str, option: str) -> Subject:
    """A component with an option that says where its file lies; by default it needs none."""
    heads = {"Eyes": "    def load(self) -> None:\n", "Dots": "    def train(self) -> ImageSet:\n"}
    kind, head = {"Eyes": "FeatureSource", "Dots": "Data"}[component], heads[component]
    return change(component, f"\n{head}", FILES.format(kind=kind, option=option, head=head))


@pytest.mark.parametrize(
    ("component", "law", "option"),
    [("Eyes", "missing-weights-are-named", "--.in-file"), ("Dots", "missing-files-are-named", "--data.in-file")],
)
def test_options_of_text_are_tried_as_places_where_nothing_is(
    change: Change, component: str, law: str, option: str
) -> None:
    check(law, with_file(change, component, option))
    with pytest.raises(ViolationError, match=f"{option} is '/no/such/place', and check.* does not name it"):
        check(law, with_file(change, component, "an option"))


@pytest.mark.parametrize(("component", "law"), [("Eyes", "images-matter"), ("Dots", "images-are-as-described")])
def test_files_that_were_named_and_cannot_be_read_are_no_reason_to_skip(
    change: Change, component: str, law: str
) -> None:
    with_settings = attrs.evolve(with_file(change, component, "--.in-file"), settings={"in_file": "/nowhere"})
    with pytest.raises(ViolationError, match=r"no file /nowhere .*with the settings given"):
        check(law, with_settings)


def test_threads_stand_in_for_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "vco.testing.laws.several_processes.require_same_in_processes", None
    )  # nothing is left to decide
    check("is-independent-of-the-split", subject("Mates"))


FORWARD = "def forward(self, step: Step"
BY_NAME = (
    "lambda x, ready=torch.distributed.is_initialized, add=torch.distributed.all_reduce: [x, ready() and add(x)][0]"
)
"""A sum over processes by functions that are looked up once, when the module is imported."""


@pytest.mark.slow
def test_real_processes_decide_about_functions_that_were_imported_by_name(change: Change) -> None:
    text = SOURCE.read_text()[part_of("Mates")]
    old = text[text.index(FORWARD) :]
    new = old.replace(FORWARD, f"{FORWARD}, by_name: Any = {BY_NAME}").replace("sum_over_processes(", "by_name(")
    check("is-independent-of-the-split", change("Mates", old, new))


@pytest.mark.slow
def test_a_sum_over_processes_that_was_forgotten_is_caught(change: Change) -> None:
    with pytest.raises(ViolationError, match="with 2 processes: mates differs by"):
        check("is-independent-of-the-split", change("Mates", "sum_over_processes(torch", "(torch"))


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("return list(self.blocks)", "return [*self.blocks, self.blocks[0]]", "blocks.0 is named twice"),
        ("return list(self.blocks)", "return [*self.blocks, self.blocks]", "is a part of the block blocks"),
        ("return list(self.blocks)", "return [self]", "block 0 is no part of the network"),
        (
            "range(self.depth))\n",
            "range(self.depth))\n        self.head.weight = self.blocks[0].weight\n",
            "the block blocks.0 shares the weight",
        ),
        ("torch.tanh(block(", "torch.tanh(block.forward(", "in eval mode the block blocks.0 is called 0 times"),
        (
            "x = x + torch.tanh(block(",
            "x = block(torch.cat([x, x], -1)) + torch.tanh(block(",
            "in eval mode the block blocks.0 is called 2 times",
        ),
    ],
)
def test_every_claim_about_blocks_is_checked(old: str, new: str, reason: str, change: Change) -> None:
    with pytest.raises(ViolationError, match=reason):
        check("blocks-are-run-once", change("Thin", old, new))


def test_a_backbone_that_names_no_blocks_breaks_no_law_about_them(change: Change) -> None:
    for name in ("blocks-are-run-once", "blocks-may-be-recomputed"):
        assert name not in {law.name for law in laws_of(subject("Net"))}
        with pytest.raises(NotApplicableError, match="it names no blocks at these settings"):
            check(name, change("Thin", "return list(self.blocks)", "return []"))
