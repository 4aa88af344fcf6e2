"""Laws for components of every kind."""

import importlib

import attrs
import torch
import yaml

from vco.config.plain import Given, build, field_docs, to_plain
from vco.errors import UserError
from vco.testing import options
from vco.testing.case import Case
from vco.testing.heavy_imports import heavy_imports
from vco.testing.law import does_not_apply, law, require


@law(Case, once=True, static=True)
def loads(case: Case) -> None:
    """Its class can be imported, subclasses its contract, and its Config has valid defaults."""
    assert case.subject.component


@law(Case, once=True, static=True)
def can_be_constructed(case: Case) -> None:
    """With its default settings, or those it is tested with, it can be constructed."""
    try:
        with torch.random.fork_rng(devices=[]):
            case.construct()
    except UserError as error:
        own = options.own_options(type(case.config), case.subject.contract)
        empty = [name for name in own if getattr(case.config, name) == ""]
        if empty:
            does_not_apply(f"somebody must set {' or '.join(empty)}: {error}")
        require(False, f"it refuses the settings that it is tested with: {error}")


@law(Case, once=True, static=True)
def says_what_it_is(case: Case) -> None:
    """The first line of its docstring, which `vco plugins` prints, is a sentence."""
    summary = case.subject.entry.summary()
    require(summary.endswith((".", "]")) and len(summary) >= 10, f"the docstring begins with {summary!r}")


@law(Case, once=True, static=True)
def options_are_documented(case: Case) -> None:
    """Every option of its Config has a docstring line, which becomes its help text."""
    config = case.subject.component.Config
    missing = attrs.fields_dict(config).keys() - field_docs(config).keys()
    require(not missing, f"no docstring line under {', '.join(sorted(missing))} of Config")


@law(Case, once=True, static=True)
def config_is_frozen(case: Case) -> None:
    """Its Config cannot be changed after construction, and takes keywords only."""
    config = case.subject.config
    for field in attrs.fields(type(config)):
        require(field.kw_only, f"Config.{field.name} can be given by position: use @attrs.frozen(kw_only=True)")
        try:
            setattr(config, field.name, getattr(config, field.name))
        except attrs.exceptions.FrozenInstanceError:
            continue
        require(False, f"Config.{field.name} can be assigned: use @attrs.frozen(kw_only=True)")


@law(Case, once=True, static=True)
def config_survives_yaml(case: Case) -> None:
    """Its Config, written as YAML and read back, is equal; so are its other choices."""
    subject = case.subject
    others = options.variants(case.config, subject.contract, ())
    for config in (subject.component.Config(), subject.config, case.config, *others):
        plain = yaml.safe_load(yaml.safe_dump(to_plain(config)))
        errors: list[str] = []
        back = build(type(config), {name: Given(value, "YAML") for name, value in plain.items()}, subject.id, errors)
        require(not errors, f"YAML of {config} is refused: {'; '.join(errors)}")
        require(back == config, f"{config} comes back from YAML as {back}")


@law(Case, once=True)
def construction_leaves_the_config_alone(case: Case) -> None:
    """The component keeps the Config it was given as `config`."""
    require(case.build().config == case.config, "component.config is not the Config it was constructed with")


@law(Case, once=True)
def metrics_are_scalars(case: Case) -> None:
    """What it measures for the log are scalars, and its learning rate's factor is a number from 0 on."""
    component = case.build()
    for name, value in component.metrics().items():
        require(value.ndim == 0 and not value.requires_grad, f"the metric {name} has axes or carries a gradient")
    for step in (0, 1, 1_000_000):
        factor = component.learning_rate_scale(step)
        require(0 <= factor < float("inf"), f"learning_rate_scale({step}) is {factor}")


@law(Case, once=True, static=True)
def imports_nothing_heavy(case: Case) -> None:
    """Its module imports optional heavy libraries only inside the functions that need them."""
    module = case.subject.entry.target.partition(":")[0]
    found = heavy_imports(module)
    require(not found, "; ".join(found))


@law(Case, once=True, static=True)
def listing_is_light(case: Case) -> None:
    """The module with the hooks imports neither torch nor anything else that is slow."""
    if importlib.import_module(case.subject.plugin).__name__ == case.subject.entry.target.partition(":")[0]:
        does_not_apply("hooks and component share one module")
    found = heavy_imports(case.subject.plugin, ("torch", "numpy", "vco.api"))
    require(not found, "; ".join(found))
