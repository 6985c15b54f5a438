"""The official OpenAI SDK, unmodified, only its base URL changed, makes pictures."""

import base64
import io
import urllib.request

import openai
import pytest
from PIL import Image

from conftest import KEY, ROOT

# Makers that answer at once, that queue and are polled, and names several of them share.
MODELS = ["gpt-image-1-mini", "fal/flux-1.1-pro", "replicate/flux-1.1-pro", "flux-1.1-pro"]


def picture(answer, index=0):
    return Image.open(io.BytesIO(base64.b64decode(answer.data[index].b64_json)))


def details(answer):
    return answer.model_extra["mediagate"]


@pytest.mark.parametrize("model", MODELS)
def test_a_picture_as_base64(client, model):
    answer = client.images.generate(model=model, prompt="a red bicycle", size="1024x1024")
    assert len(answer.data) == 1
    assert picture(answer).size == (1024, 1024)
    assert details(answer)["simulated"] is True
    assert details(answer)["cost"]["usd"].count(".") == 1


@pytest.mark.parametrize("model", MODELS)
def test_a_picture_as_url(client, model):
    answer = client.images.generate(model=model, prompt="a red bicycle", response_format="url")
    link = answer.data[0].url
    assert link.startswith(str(client.base_url).removesuffix("v1/")), "the link must be ours"
    with urllib.request.urlopen(link, timeout=10) as reply:
        shown = Image.open(io.BytesIO(reply.read()))
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["content-type"] == f"image/{shown.format.lower()}"
    output = details(answer)["outputs"][0]
    assert shown.size == (output["width"], output["height"])


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("size", ["1024x1024", "1536x1024", "1792x1024", "1000x700"])
def test_the_size_asked_is_the_size_delivered(client, model, size):
    answer = client.images.generate(model=model, prompt="a lighthouse", size=size)
    assert picture(answer).size == tuple(int(side) for side in size.split("x"))


@pytest.mark.parametrize("model", MODELS)
def test_a_ratio_is_kept(client, model):
    answer = client.images.generate(
        model=model, prompt="a lighthouse", extra_body={"aspect_ratio": "16:9"}
    )
    width, height = picture(answer).size
    untouched = not [a for a in details(answer)["adjustments"] if a["kind"] == "resized"]
    # A maker that takes the very ratio draws it on its own grid.
    slack = 16 if untouched else 1
    assert abs(width - height * 16 / 9) <= slack * 16 / 9, (width, height)


@pytest.mark.parametrize("model", MODELS)
def test_auto_leaves_the_size_to_the_model(client, model):
    answer = client.images.generate(model=model, prompt="a lighthouse", size="auto")
    output = details(answer)["outputs"][0]
    assert picture(answer).size == (output["width"], output["height"])


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_so_many_pictures(client, model, n):
    answer = client.images.generate(model=model, prompt="a cat", size="1024x1024", n=n)
    assert len(answer.data) == n
    assert len(details(answer)["outputs"]) == n
    for index in range(n):
        assert picture(answer, index).size == (1024, 1024)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    ("asked", "found"), [("png", "PNG"), ("jpeg", "JPEG"), ("webp", "WEBP"), ("avif", "AVIF")]
)
def test_every_format(client, model, asked, found):
    answer = client.images.generate(
        model=model, prompt="a cat", size="1024x1024", output_format=asked
    )
    image = picture(answer)
    assert (image.format, image.size) == (found, (1024, 1024))
    image.load()
    # OpenAI's own enumeration has no AVIF, so the field is left out there.
    assert answer.output_format == (asked if asked != "avif" else None)


def test_an_unknown_model_is_not_found(client):
    with pytest.raises(openai.NotFoundError) as caught:
        client.images.generate(model="flux-1.1-prp", prompt="a cat")
    assert caught.value.code == "model_not_found"
    assert "flux-1.1-pro" in caught.value.message


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"size": "10x"}, "size"),
        ({"size": "99999x99999"}, "size"),
        ({"n": 11}, "n"),
        ({"n": 0}, "n"),
        ({"prompt": ""}, "prompt"),
        ({"response_format": "tiff"}, "response_format"),
        ({"output_compression": 101}, "output_compression"),
        ({"background": "transparent", "output_format": "jpeg"}, "background"),
    ],
)
def test_a_bad_field_is_named(client, wrong, param):
    with pytest.raises(openai.BadRequestError) as caught:
        client.images.generate(**{"model": "flux-1.1-pro", "prompt": "a cat", **wrong})
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"
    assert caught.value.response.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("model", MODELS)
def test_a_refused_prompt_is_a_bad_request(client, model):
    with pytest.raises(openai.BadRequestError) as caught:
        client.images.generate(model=model, prompt="a cat [[fault:moderated]]")
    assert caught.value.code == "content_policy_violation"


def test_keys_are_asked_for(keyed):
    for wrong in ["nonsense", KEY + "x"]:
        with pytest.raises(openai.AuthenticationError) as caught:
            openai.OpenAI(base_url=keyed, api_key=wrong).models.list()
        assert caught.value.code == "invalid_api_key"


def test_a_key_opens_its_models_alone(keyed):
    client = openai.OpenAI(base_url=keyed, api_key=KEY)
    answer = client.images.generate(model="flux-1.1-pro", prompt="a cat", size="512x512")
    assert picture(answer).size == (512, 512)
    with pytest.raises(openai.PermissionDeniedError) as caught:
        client.images.generate(model="gpt-image-1-mini", prompt="a cat")
    assert caught.value.code == "model_not_allowed"


@pytest.mark.parametrize("fault", ["moderated", "500", "422", "failed"])
@pytest.mark.parametrize("model", ["openai/gpt-image-1-mini", "fal/flux-1.1-pro"])
def test_the_sdk_does_not_pay_a_failure_again(upstream, model, fault):
    before = upstream.submits()
    with pytest.raises(openai.APIStatusError) as caught:
        upstream.client.images.generate(model=model, prompt=f"a cat [[fault:{fault}]]")
    assert caught.value.response.headers["x-should-retry"] == "false"
    attempts = caught.value.response.json()["mediagate"]["attempts"]
    assert upstream.submits() - before == len(attempts) == 1


def test_a_picture_through_the_queue_of_another_program(upstream):
    for model in ["openai/gpt-image-1-mini", "fal/flux-1.1-pro", "replicate/flux-1.1-pro"]:
        before = upstream.submits()
        answer = upstream.client.images.generate(model=model, prompt="a cat", size="1024x1024")
        assert picture(answer).size == (1024, 1024)
        assert upstream.submits() - before == 1, model


def test_the_next_provider_takes_over(upstream):
    answer = upstream.client.images.generate(
        model="flux-1.1-pro",
        prompt="a cat [[fault:429*1]]",
        size="1024x1024",
        extra_body={"provider": {"order": ["fal", "replicate"]}},
    )
    outcomes = [attempt["outcome"] for attempt in details(answer)["attempts"]]
    assert outcomes == ["rate_limited", "ok"]


def test_models_are_listed_and_described(client):
    ids = [model.id for model in client.models.list()]
    assert {"flux-1.1-pro", "fal/flux-1.1-pro"} <= set(ids)
    assert len(ids) == len(set(ids))
    for name in ["flux-1.1-pro", "fal/flux-1.1-pro"]:
        model = client.models.retrieve(name)
        assert (model.id, model.object) == (name, "model")
        assert model.model_extra["mediagate"]["task"] == "image.generate"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("fal/no-such-thing")


def test_headers_say_what_happened(client):
    raw = client.images.with_raw_response.generate(
        model="fal/flux-1.1-pro", prompt="a cat", extra_headers={"x-request-id": "mine-1"}
    )
    assert raw.headers["x-request-id"] == "mine-1"
    assert raw.headers["x-mediagate-provider"] == "fal"
    assert raw.headers["x-mediagate-model"] == "flux-1.1-pro"
    assert raw.headers["x-mediagate-attempts"] == "1"
    assert raw.headers["x-mediagate-job-id"].startswith("job_")
    assert raw.headers["x-mediagate-cost-usd"] == details(raw.parse())["cost"]["usd"]


def test_a_dry_run_prices_every_candidate_and_calls_nobody(upstream):
    before = upstream.submits()
    plan = upstream.client.post(
        "/images/generations?dry_run=true",
        cast_to=object,
        body={"model": "flux-1.1-pro", "prompt": "a cat", "n": 2},
    )
    assert plan["dry_run"] is True
    names = [candidate["deployment"] for candidate in plan["candidates"]]
    assert {"fal/flux-1.1-pro", "replicate/flux-1.1-pro"} <= set(names)
    assert all(candidate["cost"]["usd"] for candidate in plan["candidates"] if candidate["eligible"])
    assert upstream.submits() == before


def test_the_readme_does_what_it_says(client, tmp_path, monkeypatch):
    page = (ROOT / "README.md").read_text()
    code = page.split("```python\n")[1].split("```")[0]
    address = "http://127.0.0.1:4000/v1"
    assert address in code
    monkeypatch.chdir(tmp_path)
    exec(code.replace(address, str(client.base_url)), {})
    image = Image.open(tmp_path / "lighthouse.webp")
    assert (image.format, image.size) == ("WEBP", (1536, 1024))
