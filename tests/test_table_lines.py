"""A table's line: what it can be, and the key of what its row is made from."""

import functools
import types

import pytest

from configs import grid
from toktalk_jax import rows, style_gains, table_lines, tables
from toktalk_jax.evaluation import references


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"label": "x", "data": "mel_rvq", "stile": "none"}, "unknown fields.*stile"),
        ({"data": "mel_rvq"}, "expected label"),
        ({"label": "x"}, "expected label, data"),
        ({"label": "x", "data": "mel_rvq", "method": "rigde"}, "method 'rigde'"),
    ],
)
def test_malformed_lines(line, message):
    with pytest.raises(ValueError, match=message):
        table_lines.check(line)


def test_what_a_line_cannot_be_is_told_before_it_trains(tmp_path):
    config = grid.get_config("smoke")
    for changes, message in (
        ({"data": "mimo"}, r"has data 'mimo'; expected one of .*'mimi'"),
        ({"run": "faceformers"}, "has run 'faceformers'"),
        ({"style": "own"}, "has style 'own'"),
        ({"scored": "half"}, "has scored 'half'"),
        ({"run": "datasets"}, "has run 'datasets'"),
        ({"sample": {"steps": 3}}, r"overrides \['steps'\] in 'sample'"),
        ({"train": {"train.style_dropp": 1.0}}, r"overrides \['train.style_dropp'\]"),
        ({"train": {"seed.x": 1}}, r"overrides \['seed.x'\] in 'train'"),
        ({"adapter": {"steps": 1}}, r"overrides \['steps'\] in 'adapter'"),
    ):
        module = types.SimpleNamespace(
            __name__="m",
            table_3=lambda c=changes: [{"label": "x", "data": "mel_rvq", **c}],
        )
        with pytest.raises(ValueError, match=message):
            tables.fill(3, config, module, runs=[tmp_path], kept=tmp_path, train=True)
    assert not list(tmp_path.iterdir())


def test_a_rows_key_is_what_it_is_made_from(monkeypatch):
    config = grid.get_config("smoke")
    key_of = functools.partial(table_lines.row_key, config)
    line = table_lines.check(next(iter(grid.table_3())))
    key = key_of(line, 0)
    assert key_of({**line, "label": "x", "paper": ""}, 0) == key
    for change in (
        {"train": {"train.style_drop": 1.0}},
        {"sample": {"num_steps": 3}},
        *({"style": "none"}, {"scored": "second_half"}, {"match_std": True}),
        {"unscored": True},
    ):
        assert key_of({**line, **change}, 0) != key
    assert key_of(line, 1) != key
    matched, gains = {**line, "match_std": True}, {**line, "gains": True}
    fitted = {**line, "method": "ridge"}
    other = config.copy_and_resolve_references()
    other.train.learning_rate, other.sample.temperature = 0.5, 0.3
    assert table_lines.row_key(other, line, 0) != key
    assert table_lines.row_key(other, fitted, 0) == key_of(fitted, 0)
    before = key_of(fitted, 0)
    monkeypatch.setitem(rows.UNTRAINED, "ridge", (3,))
    assert key_of(fitted, 0) != before
    for module, name, value, asked in (
        (references, "FRAMES", 25, line),
        (table_lines, "TEMPERATURES", (0.5, 1.0), matched),
        (style_gains, "LEVELS", 4, gains),
    ):
        before = key_of(asked, 0)
        with monkeypatch.context() as changed:
            changed.setattr(module, name, value)
            assert key_of(asked, 0) != before
