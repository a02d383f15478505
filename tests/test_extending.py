"""The example of docs/EXTENDING.md, taken from the page: it registers, trains and finds persons."""

import pickle
import re
import runpy
import sys
from pathlib import Path

import fresh_process
import pytest
import torch
from detectron2.modeling import build_model
from killed_training import config
from tiny_model import gradients_of, tiny_batch, tiny_config

from querypose import modeling
from querypose.config_checks import check_config, valid_values
from querypose.engine import train_net
from querypose.errors import UserError
from querypose.modeling import PART_EMBEDDING_REGISTRY

PAGE = Path(__file__).resolve().parents[1] / "docs" / "EXTENDING.md"
KEY = "MODEL.QUERYPOSE.PART_EMBEDDING"


@pytest.fixture
def example(tmp_path, monkeypatch):
    """The page's two files in a folder that Python imports from, as if for the first time."""
    module, script = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (tmp_path / "query_attention.py").write_text(module)
    (tmp_path / "train_mine.py").write_text(script)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(PART_EMBEDDING_REGISTRY, "_obj_map", dict(PART_EMBEDDING_REGISTRY._obj_map))
    sys.modules.pop("query_attention", None)
    return tmp_path


@pytest.mark.parametrize("variant", ["light", "full"])
def test_the_example_trains_and_finds_persons(example, variant):
    with pytest.raises(UserError, match="PART_EMBEDDING is 'QueryAttention'; valid are"):
        check_config(tiny_config(variant, KEY, "QueryAttention"))
    import query_attention

    cfg = tiny_config(variant, KEY, "QueryAttention", "MODEL.QUERYPOSE.LOSS.ATTENTION_WEIGHT", 1.0)
    query_attention.add_query_attention_config(cfg)
    check_config(cfg)
    model = build_model(cfg)
    assert type(model.decoder.keypoint_stages[0].part_embedding) is query_attention.QueryAttention
    gradients = gradients_of(model.train(), tiny_batch())[1]
    assert [name for name, gradient in gradients.items() if gradient is None] == []

    image = tiny_batch()[0]["image"]
    with torch.no_grad():
        persons = model.eval().with_attention([{"image": image}])[0]["instances"]
    assert persons.pred_keypoints.shape[1:] == (17, 3) and len(persons) > 0
    assert persons.part_attention.shape[1:] == (7, 6, 6)
    torch.testing.assert_close(persons.part_attention.sum(dim=(2, 3)), torch.ones(len(persons), 7))


def test_the_queries_choose_the_places(example):
    """What the page says it is: attention is the softmax of scalar products, embeddings are its weighted sums."""
    from query_attention import QueryAttention

    module = QueryAttention(dim=5, part_dim=4, temperature=3.0)
    regions, queries = torch.randn(2, 5, 3, 2), torch.randn(2, 3, 4)
    embeddings, attention = module(regions, queries)
    places = regions[1].flatten(1).T  # (6, 5)
    weights = torch.softmax(module.key(places) @ queries[1, 2] / 6, dim=0)  # the root of the width is 2
    torch.testing.assert_close(attention[1, 2].flatten(), weights)
    torch.testing.assert_close(embeddings[1, 2], module.project(weights @ places))


def call_pickled(call):
    function, arguments = pickle.loads(call)
    function(arguments)


def test_the_training_script_trains_with_its_own_key(example, people, tmp_path, monkeypatch):
    """What it gives to each process of a job, in one that does not know the key and the class yet."""
    (tmp_path / "config.yaml").write_text(config(people, tmp_path / "run", "SOLVER.MAX_ITER", 2).dump())
    opts = [KEY, "QueryAttention", "MODEL.QUERYPOSE.ATTENTION_TEMPERATURE", "2.5"]
    calls = []
    monkeypatch.setattr(train_net, "launch", lambda *call: calls.append(pickle.dumps(call)))
    monkeypatch.setattr(sys, "argv", ["", "--config-file", str(tmp_path / "config.yaml"), *opts])
    runpy.run_path(str(example / "train_mine.py"), run_name="__main__")
    done = fresh_process.run(tmp_path / "out", call_pickled, *calls)
    assert done.returncode == 0, done.stderr
    assert "ATTENTION_TEMPERATURE: 2.5" in (tmp_path / "run" / "config.yaml").read_text()
    weights = torch.load(tmp_path / "run" / "model_final.pth")["model"]
    assert "decoder.keypoint_stages.0.part_embedding.key.weight" in weights


def test_the_page_names_every_registry():
    page = PAGE.read_text()
    names = [name for name in dir(modeling) if name.endswith("_REGISTRY")]
    assert len(names) == 6
    keys = [key.removeprefix("MODEL.QUERYPOSE.") for key in valid_values() if key.startswith("MODEL.QUERYPOSE.")]
    names += [key for key in keys if "." not in key and key not in ("VARIANT", "INITIALIZATION", "TRAIN_QUERIES")]
    assert [name for name in names if f"`{name}`" not in page] == []
