"""How much the contract kit sees: breaks the built-ins in typical ways and counts what their laws catch.

Every mutant is one small change in the source of a component, or of a module that components share: another axis, a
detach left out, a draw from the global generator, a cast or a mask forgotten, a batch leak, a comparison or a
difference turned round, an index off by one, a buffer not registered, a sum over batches or processes forgotten, the
first encoder in the place of the named one, weights or times of a loss forgotten. At most ten a file are taken, spread
evenly over these ways by a fixed seed. A mutant is caught if any law of any component that uses the file is broken; one
that leaves all results equal to the bit (a cast of what has that dtype anyway) does not count. It runs on copies of the
modules in this process; nothing on disk is touched.

    python benchmarks/mutants.py [--only losses] [--per-file 10] > mutants.md
"""

import argparse
import ast
import contextlib
import importlib
import sys
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Generator
from types import ModuleType
from typing import Any, Final

import torch
from mutations import Mutant, mutants

from vco.api import FEATURES
from vco.testing.case import ModuleCase, TrainedCase
from vco.testing.examine import case_of, examine, first_settings, laws_of, variants
from vco.testing.law import NotApplicableError, require
from vco.testing.laws import several_processes
from vco.testing.laws.adapters import AdapterCase
from vco.testing.laws.data import DataCase
from vco.testing.laws.guidance import GuidanceCase
from vco.testing.laws.loss_case import LossCase
from vco.testing.laws.metrics import MetricCase
from vco.testing.laws.optimizers import OptimizerCase
from vco.testing.laws.processes import ProcessCase
from vco.testing.laws.solvers import SolverCase, uniform
from vco.testing.subject import Preset, Subject, discover
from vco.testing.tensors import leaves

PLUGIN: Final = "vco_plugins"
FORMULAS: Final = ("sign", "direction", "comparison turned round", "off by one")
"""Ways that make another formula, which may keep the contract as well as the right one."""


FOR_ITSELF: Final = "processes forgotten"
"""The way whose mutants change nothing where there is one process."""


def users(subjects: list[Subject]) -> dict[str, list[Subject]]:
    """Module -> the components that use it: their own modules, and those of the plugin that these import."""
    found: dict[str, list[Subject]] = defaultdict(list)
    for subject in subjects:
        own = subject.entry.target.partition(":")[0]
        waiting, seen = [own], set[str]()
        while waiting:
            name = waiting.pop()
            if name in seen:
                continue
            seen.add(name)
            found[name].append(subject)
            importlib.import_module(name)
            with open(str(sys.modules[name].__file__)) as file:
                nodes = ast.walk(ast.parse(file.read()))
            imports = [n.module for n in nodes if isinstance(n, ast.ImportFrom) and n.module]
            waiting += [module for module in imports if module.startswith(f"{PLUGIN}.")]
    return found


@contextlib.contextmanager
def swapped(mutant: Mutant) -> Generator[bool]:
    """Runs with fresh modules of the plugin, the mutant among them; false if it cannot be imported."""
    before = _taken_out()
    sys.meta_path.insert(0, mutant)
    try:
        yield _can_be_imported(mutant)
    finally:
        sys.meta_path.remove(mutant)
        _taken_out()
        sys.modules.update(before)


def _taken_out() -> dict[str, ModuleType]:
    """The modules of the plugin, which are then imported again by whoever needs them."""
    names = [name for name in sys.modules if name.startswith(f"{PLUGIN}.")]
    return {name: sys.modules.pop(name) for name in names}


def _can_be_imported(mutant: Mutant) -> bool:
    try:
        importlib.import_module(mutant.module)
    except Exception:
        return False
    return True


def behaviour(subject: Subject) -> dict[str, Any]:
    """What a component computes at the settings and sizes that the kit tries: equal behaviours are one mutant."""
    found: dict[str, Any] = {}
    case_class, config = case_of(subject), first_settings(subject)
    first, *situations = case_class.situations(subject)
    tried = [(config, sizes, first) for sizes in case_class.sizes_tried]
    tried += [(config, case_class.sizes_tried[0], situation) for situation in situations]
    tried += [(variant, case_class.sizes_tried[0], first) for variant in variants(subject)]
    for number, (settings, sizes, situation) in enumerate(tried):
        case: Any = case_class(subject=subject, config=settings, sizes=sizes, **situation)
        torch.manual_seed(0)
        try:
            found |= {f"{number}.{name}": value.detach() for name, value in leaves(_computed(case)).items()}
        except Exception as error:
            found[f"{number}"] = repr(error)
    return found


def _computed(case: Any) -> Any:
    component = case.build()
    if isinstance(case, ModuleCase):
        return _of_module(case, component)
    if isinstance(case, GuidanceCase):
        branches = [component.branches(case.labels(), times) for times in case.times()]
        combined = [
            component.combine(case.velocities(found, 3), times)
            for found, times in zip(branches, case.times(), strict=True)
        ]
        return {"train": component.condition(case.labels(64), case.generator(2)), "is": branches, "to": combined}
    if isinstance(case, ProcessCase):
        times = case.sample(component, 256)
        return {"train": times, "weight": component.weight(times), "path": component.path(9)}
    if isinstance(case, SolverCase):
        state = case.state()
        path = {name: t**power for (name, t), power in zip(uniform(7).items(), (1, 2), strict=True)}

        def velocity(x: Any, t: Any, until: Any) -> Any:
            return {name: torch.cos(y + 3 * t[name] - until[name]) for name, y in x.items()}

        return component.integrate(velocity, state, path, case.noise(state))
    if isinstance(case, OptimizerCase):
        trained = case.trained(case.weights())
        steps = [trained.step(case.weights(key)) for key in (2, 3, 4)]
        groups = [torch.tensor([hash(group["component"]) % 997]) for group in trained.optimizer.param_groups]
        return {"steps": steps, "groups": groups}
    if isinstance(case, MetricCase):
        metric = case.fed(case.sample(1), case.sample(2), (40, 56))
        states = [dict(metric.state()), dict(case.fed(case.sample(3), case.sample(4)).state())]
        alone = metric.score()
        metric.merge(states)
        return [torch.tensor([alone.value, metric.score().value]), states, torch.tensor([hash(alone.name) % 997])]
    assert isinstance(case, DataCase)
    return [[images.image(i, case.generator(i)) for i in case.indices(images)] for images in case.sets(True).values()]


def _of_module(case: ModuleCase, component: Any) -> Any:
    """Outputs in training and eval mode, and gradients of what may carry some."""
    inputs = case.inputs(component, 1)
    carrying = inputs
    if isinstance(case, LossCase):
        learned = {what: inputs[what][FEATURES] for what in ("clean", "target")}
        carrying = {**learned, **{name: inputs[name] for name in ("predicted", "taps", "context")}}
    sources = [leaf for leaf in leaves(carrying).values() if leaf.is_floating_point()]
    for leaf in sources:
        leaf.requires_grad_()
    outputs = case.run(component.train(), inputs)
    results = [x for x in leaves(outputs).values() if x.requires_grad]
    if results:
        torch.stack([(x.float() ** 2).sum() for x in results]).sum().backward()
    gradients = [source.grad for source in (*sources, *component.parameters()) if source.grad is not None]
    if isinstance(case, AdapterCase):
        component.fit(case.data((20, 20, 1)))
    asked: Any = None
    if isinstance(case, LossCase):
        step = case.prepared(component, inputs)
        asked = [step.noisy, step.times, step.condition]
    return {"train": outputs, "gradients": gradients, "asked": asked, "eval": case.run(component.eval(), inputs)}


def same_behaviour(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two behaviours are equal to the bit."""
    return one.keys() == other.keys() and all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) else a is b or a == b
        for a, b in zip(one.values(), other.values(), strict=True)
    )


def broken_law(subject: Subject, held: Callable[[str], bool]) -> str:
    """The first law that a component breaks though it held for the true one; empty if there is none."""
    for law in laws_of(subject):
        name = f"{subject.id}/{law.name}"
        if law.slow or (law.static and law.name not in ("loads", "can-be-constructed")) or not held(name):
            continue
        try:
            examine(law, subject)
        except NotApplicableError:
            continue
        except Exception:
            return name
    return ""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default="", help="only modules whose name contains this")
    parser.add_argument("--per-file", type=int, default=10, help="mutants of a module, at most")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    several_processes.require_same_in_processes = _decided_by_threads

    used = users(_components())
    broken_before = {name for subject in _components() for name in _all_broken(subject)}
    caught, missed, idle = Counter[str](), Counter[str](), 0
    true_behaviour = {subject.id: behaviour(subject) for subject in _components() if not _lacks_files(subject)}
    lines: list[str] = []
    for module in sorted(used, key=lambda module: (len(used[module]), module)):  # what many share takes longest
        subjects = [subject for subject in used[module] if not _lacks_files(subject)]
        if options.only not in module or not subjects:
            continue
        for mutant in mutants(module, options.per_file):
            law, changed = "", False
            with swapped(mutant) as importable:
                for subject in subjects if importable else ():
                    fresh = Subject(entry=subject.entry, plugin=subject.plugin, settings=subject.settings)
                    law = law or broken_law(fresh, lambda name: name not in broken_before)
                    if not law:
                        fresh = Subject(entry=subject.entry, plugin=subject.plugin, settings=subject.settings)
                        changed = changed or not same_behaviour(true_behaviour[subject.id], behaviour(fresh))
            changed = changed or mutant.way == FOR_ITSELF
            law = law or ("" if importable else "loads")
            if not law and not changed:
                idle += 1
                print(f"no effect {module}:{mutant.line} {mutant.words}", file=sys.stderr)
                continue
            (caught if law else missed)[mutant.way] += 1
            print(f"{'caught' if law else 'MISSED'} {module}:{mutant.line} {mutant.words} {law}", file=sys.stderr)
            if not law:
                lines.append(f"| `{module}:{mutant.line}` | {mutant.words} | `{mutant.text.replace('|', '/')}` |")
    total = sum(caught.values()) + sum(missed.values())
    print(f"{sum(caught.values())} of {total} mutants caught ({sum(caught.values()) / max(total, 1):.1%}).")
    print(f"{idle} others change nothing at any setting and size that was tried, to the bit, and do not count.\n")
    ordinary = {way: n for way, n in (caught + missed).items() if way not in FORMULAS}
    kept = sum(caught[way] for way in ordinary)
    share = kept / max(sum(ordinary.values()), 1)
    print(f"Without {', '.join(FORMULAS)}: {kept} of {sum(ordinary.values())} ({share:.1%}).\n")
    print("| way | caught | missed |\n|---|---:|---:|")
    for way in sorted(caught.keys() | missed.keys()):
        print(f"| {way} | {caught[way]} | {missed[way]} |")
    print("\n| missed | way | at |\n|---|---|---|\n" + "\n".join(lines))


def _decided_by_threads(case: TrainedCase) -> None:
    """Real processes would import the true modules from disk."""
    require(False, "threads that stand in for processes give something else")


def _components() -> list[Subject]:
    return [subject for subject in discover(PLUGIN) if not isinstance(subject, Preset)]


def _all_broken(subject: Subject) -> list[str]:
    found: list[str] = []
    for law in laws_of(subject):
        try:
            if not law.slow:
                examine(law, subject)
        except NotApplicableError:
            continue
        except Exception:
            found.append(f"{subject.id}/{law.name}")
    return found


def _lacks_files(subject: Subject) -> bool:
    """Whether most laws would be skipped: weights or files are missing here."""
    try:
        examine(next(law for law in laws_of(subject) if law.name in ("output-is-finite", "labels-match")), subject)
    except StopIteration:
        return False
    except NotApplicableError:
        return True
    return False


if __name__ == "__main__":
    main()
