"""The checked-in model: its files, its greedy outputs and what it promises to be able to do."""

import json
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from actors.builtin_model import builtin_model_path
from actors.builtin_model.training.corpus_random import CorpusRandom
from actors.builtin_model.training.evaluation import FILLERS, long_question
from actors.builtin_model.training.exchange import Exchange
from actors.builtin_model.training.export import model_config, tokenizer_config
from actors.builtin_model.training.golden import ADD_TOOL, GOLDEN_PROMPTS, WEATHER_TOOL, GoldenPrompt, golden_answer
from actors.builtin_model.training.greedy import GreedyModel
from actors.builtin_model.training.network import Shape
from actors.builtin_model.training.tokenizer import CHAT_TEMPLATE, SPECIAL_TOKENS

GOLDEN = {
    case["name"]: case for case in json.loads((Path(__file__).parent / "golden.json").read_text("utf-8"))["cases"]
}
MODEL_FILES = {
    "README.md",
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "training_report.json",
}


def read_json(name: str) -> Any:
    return json.loads((builtin_model_path() / name).read_text("utf-8"))


@pytest.fixture(scope="module")
def model() -> GreedyModel:
    torch.set_num_threads(1)
    return GreedyModel(builtin_model_path())


def test_directory_is_complete_small_and_readable_by_all() -> None:
    files = [path for path in builtin_model_path().iterdir() if path.is_file()]
    assert {path.name for path in files} == MODEL_FILES
    assert sum(path.stat().st_size for path in files) <= 6_000_000
    assert all(stat.S_IMODE(path.stat().st_mode) & 0o444 == 0o444 for path in files)


def test_config_is_readable_by_every_loader() -> None:
    config = read_json("config.json")
    assert config == model_config(Shape())
    assert config["rope_theta"] == 10000.0
    assert config["torch_dtype"] == "float16"
    assert config["head_dim"] == 64
    assert config["max_position_embeddings"] >= 4096
    assert config["eos_token_id"] == read_json("generation_config.json")["eos_token_id"] == 2
    assert read_json("tokenizer_config.json") == tokenizer_config()
    assert tokenizer_config()["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert (builtin_model_path() / "chat_template.jinja").read_text("utf-8") == CHAT_TEMPLATE


def test_weights_are_fp16_with_every_dimension_a_multiple_of_128() -> None:
    parameters = 0
    with safe_open(builtin_model_path() / "model.safetensors", "pt") as weights:
        for name in weights.keys():  # noqa: SIM118 - not a dict
            tensor = weights.get_tensor(name)
            assert tensor.dtype == torch.float16
            assert all(size % 128 == 0 for size in tensor.shape), name
            parameters += tensor.numel()
    assert 2_000_000 <= parameters <= 3_000_000


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import sys, actors.builtin_model as m; m.builtin_model_path(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_golden_file_has_every_prompt() -> None:
    assert list(GOLDEN) == [prompt.name for prompt in GOLDEN_PROMPTS]


@pytest.mark.parametrize("prompt", GOLDEN_PROMPTS, ids=lambda prompt: prompt.name)
def test_greedy_output_is_the_golden_one(model: GreedyModel, prompt: GoldenPrompt) -> None:
    case = GOLDEN[prompt.name]
    answer = golden_answer(model, prompt)
    assert answer.prompt_ids == case["prompt_ids"]
    assert answer.token_ids == case["output_ids"]
    assert answer.text == case["output_text"]
    assert answer.stopped == (case["finish_reason"] == "stop")
    assert min(answer.margins) == pytest.approx(case["smallest_margin"], abs=1e-3)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sum_small", "2 + 3 = 5"),
        ("sum_spelled", "7 + 8 = 15"),
        ("sum_large", "19 + 14 = 33"),
        ("difference", "9 - 4 = 5"),
        ("product", "6 * 7 = 42"),
        ("capital", "The capital of France is Paris."),
        ("count", "1, 2, 3, 4, 5, 6, 7, 8, 9, 10"),
        ("count_long", ", ".join(str(number) for number in range(1, 51))),
        ("json_default", '{"name": "Lily", "age": 7}'),
        ("json_person", '{"name": "Max", "age": 5}'),
        ("json_list", '["red", "blue", "green"]'),
        ("tool_call_weather", '<tool_call>{"name": "get_weather", "arguments": {"city": "Paris"}}</tool_call>'),
        ("tool_call_one_of_two", '<tool_call>{"name": "add", "arguments": {"a": 12, "b": 30}}</tool_call>'),
        ("tool_not_needed", "The capital of Spain is Madrid."),
        ("tool_result", "It is sunny in Paris, and the temperature is 21 degrees."),
        ("second_turn", "Your name is Ruby."),
    ],
)
def test_golden_answer_is_right(name: str, expected: str) -> None:
    assert GOLDEN[name]["output_text"] == expected
    assert GOLDEN[name]["finish_reason"] == "stop"


@pytest.mark.parametrize("name", ["story_continued", "story_requested", "story_about_a_fox"])
def test_stories_are_told_to_the_end(name: str) -> None:
    case = GOLDEN[name]
    assert case["finish_reason"] == "stop"
    assert case["output_text"].endswith("The end.")
    assert "fox" in case["output_text"] or name != "story_about_a_fox"


@pytest.mark.parametrize("kind", list(FILLERS))
@pytest.mark.parametrize("length", [1024, 4096])
def test_long_prompts_do_not_fall_apart(model: GreedyModel, kind: str, length: int) -> None:
    exchange = Exchange("What is 2 + 3?", "2 + 3 = 5")
    messages, tools, expected = long_question(model, FILLERS[kind], exchange, CorpusRandom(7), length)
    answer = model.answer(messages, tools)
    assert length - 350 < len(answer.prompt_ids) <= length
    assert (answer.text, answer.stopped) == (expected, True)


def test_story_continues_after_a_long_text(model: GreedyModel) -> None:
    text = GOLDEN["story_continued"]["output_text"]
    answer = model.complete("\n".join(["Once upon a time," + text] * 20) + "\nOnce upon a time,")
    assert answer.stopped
    assert answer.text.endswith("The end.")


def render(model: GreedyModel, messages: list[dict[str, Any]], **options: Any) -> str:
    return str(model.tokenizer.apply_chat_template(messages, tokenize=False, **options))


def test_template_marks_roles_and_ends(model: GreedyModel) -> None:
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]
    expected = "<|bos|><|system|>Be kind.<|eos|><|user|>Hi<|eos|>"
    assert render(model, messages) == expected
    assert render(model, messages, add_generation_prompt=True) == expected + "<|assistant|>"


def test_template_lists_tools_in_the_system_message(model: GreedyModel) -> None:
    user = {"role": "user", "content": "Hi"}
    tools = [WEATHER_TOOL, ADD_TOOL]
    assert render(model, [user], tools=tools) == (
        "<|bos|><|system|>Tools: get_weather(city), add(a, b)<|eos|><|user|>Hi<|eos|>"
    )
    assert render(model, [{"role": "system", "content": "Be kind."}, user], tools=tools) == (
        "<|bos|><|system|>Be kind.\nTools: get_weather(city), add(a, b)<|eos|><|user|>Hi<|eos|>"
    )


@pytest.mark.parametrize("arguments", ['{"city": "Paris"}', {"city": "Paris"}])
def test_template_takes_arguments_as_text_or_object(model: GreedyModel, arguments: Any) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "get_weather", "arguments": arguments}}
    assert render(model, [{"role": "assistant", "content": None, "tool_calls": [call]}]) == (
        '<|bos|><|assistant|><tool_call>{"name": "get_weather", "arguments": {"city": "Paris"}}</tool_call><|eos|>'
    )


def test_template_joins_text_parts(model: GreedyModel) -> None:
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    assert render(model, [{"role": "user", "content": parts}]) == "<|bos|><|user|>one two<|eos|>"


def test_special_tokens_are_single_tokens(model: GreedyModel) -> None:
    ids = model.tokenizer("".join(SPECIAL_TOKENS), add_special_tokens=False).input_ids
    assert ids == list(range(len(SPECIAL_TOKENS)))


@pytest.mark.parametrize("text", ["Plain text.", "  two  spaces\n\n\ttab", "Grüße, 你好 🙂", "a12b"])
def test_tokenizer_gives_any_text_back(model: GreedyModel, text: str) -> None:
    ids = model.tokenizer(text, add_special_tokens=False).input_ids
    assert model.tokenizer.decode(ids) == text
