"""README's commands name modules, flags, configs and files that exist."""

import importlib.util
import json
import pathlib
import re
import shlex

import pytest

from tests.conftest import ROOT

TEXT = (ROOT / "README.md").read_text()
# Programs that are not ours, and their own flags.
OTHERS = ("source", "pip", "cd", "git", "sbatch", "bash")


def commands():
    """Every command of the bash blocks: continued lines joined, comments gone."""
    for block in re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                yield " ".join(words)


def ours():
    """(module, arguments) of the commands that run a module of this code base."""
    for command in commands():
        found = re.search(r"python -m ((?:toktalk_jax|tools|launch)\.\S+)(.*)", command)
        if found:
            yield found[1], found[2].split()


def source_of(module):
    return (ROOT / (module.replace(".", "/") + ".py")).read_text()


@pytest.mark.parametrize(("module", "arguments"), list(ours()))
def test_a_command_names_what_exists(module, arguments):
    source = source_of(module)
    for argument, after in zip(arguments, [*arguments[1:], ""], strict=False):
        flag, _, value = argument.partition("=")
        if flag.startswith("--config."):
            path = next(a for a in arguments if a.startswith("configs/"))
            assert flag.removeprefix("--config.") in keys(path), argument
        elif flag.startswith("--"):
            # Declared here or in a module that this one imports its flags from.
            made = rf'(DEFINE_\w+\(\s*"|add(_argument)?\(\s*"--){flag[2:]}"'
            assert re.search(made, source + imported(source)), argument
        if flag == "--config" and after != "...":
            config(value or after)
    if module == "launch.sweep":
        path, _, sweep = arguments[0].partition(":")
        assert f"def {sweep}(" in (ROOT / path).read_text()


def imported(source):
    """Sources of the modules of this code base that a source imports."""
    found = re.findall(r"^\s*from (\S+) import (.+)$", source, re.MULTILINE)
    names = {
        f"{package}.{name.split(' as ')[0].strip()}"
        for package, members in found
        for name in members.strip("()").split(",")
    } | {package for package, _ in found}
    paths = (ROOT / (name.replace(".", "/") + ".py") for name in names)
    return "".join(path.read_text() for path in paths if path.is_file())


def config(named):
    """The config that --config names, with its arguments."""
    path, _, argument = named.partition(":")
    spec = importlib.util.spec_from_file_location("named", ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(argument)


def keys(named):
    """Dotted keys of a config, blocks too."""

    def walk(block, before):
        for name, value in block.items():
            yield before + name
            if hasattr(value, "items"):
                yield from walk(value, f"{before}{name}.")

    path, _, rest = named.partition(":")
    argument = "" if rest.startswith("sweep") else rest
    return set(walk(config(f"{path}:{argument}"), ""))


def test_commands_are_of_programs_that_are_known():
    for command in commands():
        first = next(word for word in command.split() if "=" not in word)
        known = first in OTHERS or first in ("python", "python3")
        assert known or (ROOT / first).exists(), command
        for script in re.findall(r"\S+\.(?:sh|sbatch)\b", command):
            assert (ROOT / script).is_file(), command


def test_links_lead_to_files():
    links = re.findall(r"\]\(([^)#\s]+)\)", TEXT)
    named = re.findall(
        r"`((?:toktalk_jax|tools|configs|launch|tests)/[^`\s*:]+)`", TEXT
    )
    assert len(named) > 10
    for link in [*links, *named]:
        if not link.startswith("http"):
            assert (ROOT / pathlib.Path(link)).exists(), link


SUMMARY = {  # row of README's short table: (table, its line)
    "TokTalk, streamed": (3, "TokTalk"),
    "at the truth's motion (temperature about 0.4)": (3, "std_ratio matched"),
    "at temperature 0": (3, "temperature 0"),
    "the same U-Net, regression loss": (3, "the same U-Net, regression"),
    "FaceFormer": (3, "FaceFormer"),
    "FaceFormer, 0.32 s ahead": (3, "FaceFormer, 0.32 s ahead"),
    "ridge regression, same tokens": (3, "ridge regression"),
    "mean face": (3, "mean face"),
    "ground truth": (3, "ground truth"),
    "TokTalk, `lyra` tokens": (2, "lyra"),
    "TokTalk, `whisper` tokens, 0.4 s ahead": (2, "whisper, 0.4 s ahead"),
}


def test_the_summary_of_the_tables_is_what_they_say():
    made = {}
    for number in (2, 3):
        path = ROOT / f"configs/results/table_{number}.json"
        for line in json.loads(path.read_text())["lines"]:
            made[number, line["label"]] = line["metrics"]
    block = re.search(r"In short, with.*?\n\n(.*?)\n\n", TEXT, re.DOTALL)[1]
    head, _, *body = (
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in block.splitlines()
    )
    assert [name for name, *_ in body] == list(SUMMARY)
    for name, *cells in body:
        for metric, cell in zip(head[1:], cells, strict=True):
            found = made[SUMMARY[name]].get(metric.strip("`"))
            value = found and found["value"]
            digits = len(cell.partition(".")[2])
            shown = "" if value is None else f"{value:.{digits}f}"
            assert cell == shown, (name, metric)
