"""The official OpenAI SDK edits, varies and streams pictures."""

import base64
import io

import pytest
from PIL import Image

MODELS = ["gpt-image-1-mini", "fal/nano-banana", "gemini/nano-banana"]


def png(mode="RGB", size=(256, 256), colour=(200, 40, 40)):
    file = io.BytesIO()
    Image.new(mode, size, colour).save(file, "PNG")
    return file.getvalue()


def hole(size=(256, 256)):
    """A mask whose left half is to be edited."""
    mask = Image.new("RGBA", size, (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), (0, 0, size[0] // 2, size[1]))
    file = io.BytesIO()
    mask.save(file, "PNG")
    return file.getvalue()


def picture(item):
    return Image.open(io.BytesIO(base64.b64decode(item.b64_json)))


@pytest.mark.parametrize("model", MODELS)
def test_one_picture_in_every_form_the_sdk_takes(client, model, tmp_path):
    path = tmp_path / "mug.png"
    path.write_bytes(png())
    with path.open("rb") as handle:
        forms = [png(), io.BytesIO(png()), path, handle, ("mug.png", png(), "image/png")]
        for image in forms:
            answer = client.images.edit(
                model=model, image=image, prompt="on a beach", size="1024x1024"
            )
            assert picture(answer.data[0]).size == (1024, 1024)
            assert answer.model_extra["mediagate"]["simulated"] is True


@pytest.mark.parametrize("model", MODELS)
def test_a_list_of_pictures(client, model):
    images = [png(), io.BytesIO(png(colour=(1, 2, 3))), ("b.png", png(), "image/png")]
    answer = client.images.edit(model=model, image=images, prompt="side by side")
    assert picture(answer.data[0]).width > 0


def test_a_mask_in_every_form(client, tmp_path):
    path = tmp_path / "mask.png"
    path.write_bytes(hole())
    with path.open("rb") as handle:
        for mask in [hole(), io.BytesIO(hole()), handle]:
            answer = client.images.edit(
                model="gpt-image-1-mini", image=png(), mask=mask, prompt="x", size="1024x1024"
            )
            drawn = picture(answer.data[0]).convert("RGB")
            assert drawn.getpixel((1000, 500)) == (200, 40, 40), "kept outside the mask"
            left = drawn.crop((0, 0, 480, 1024)).getcolors(1 << 21)
            assert len(left) > 50, "changed inside"


def test_a_variation(client):
    answer = client.images.create_variation(
        model="fal/flux-1-dev-redux", image=io.BytesIO(png()), n=1, size="1024x1024"
    )
    assert picture(answer.data[0]).size == (1024, 1024)


@pytest.mark.parametrize("model", MODELS)
def test_streams_end_with_the_picture(client, model):
    ask = {"model": model, "prompt": "a fox", "size": "1024x1024", "stream": True}
    for kind, events in [
        ("image_generation", client.images.generate(partial_images=1, **ask)),
        ("image_edit", client.images.edit(image=png(), partial_images=1, **ask)),
    ]:
        events = list(events)
        last = events[-1]
        assert last.type == f"{kind}.completed"
        assert picture(last).size == (1024, 1024)
        for event in events[:-1]:
            assert event.type == f"{kind}.partial_image"
            assert picture(event).width > 0
