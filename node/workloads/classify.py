"""Classify: an encoded picture in, its five likeliest classes out, as JSON.

Who cuts and scales for himself sends an array: float32 [3, S, S], red, green and blue, each number (value - 127)
/ 128 of a pixel's 0 to 255; or uint8 [N], the bytes of an encoded picture. Then all logits are told, too.
"""

import base64
import io
import json
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from node.models import CachedModel, ModelError
from node.roofline import Cost, Phase
from node.workloads import BadInput, Control, Outcome
from node.workloads.arrays import array_of, described, is_array
from node.workloads.device import Guard, device_named, dtype_named, on_device
from node.workloads.efficientnet import IMAGE_SIZE, EfficientNetLite0, operations
from node.workloads.weights import load_own

BATCH_ITEMS = {"cpu": 8, "cuda": 64}
"""Pictures of one micro-batch. Measured on one busy core: by 8 it does 54 a second, by 1 42, by 16 62; the GPU's
is assumed."""

TOGETHER = {"cpu": 2, "cuda": 64}
"""Of these, pictures that pass through the widest layers at once. Measured on one core: were it 8, each would take
up to 2.7 times as long there; the GPU's is assumed."""

MAX_PIXELS = 40_000_000
"""Pixels of the largest picture. Assumed: above any telephone's ordinary photograph, and 120 MB decoded."""

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
_MARGIN = 32  # pixels cut from the shorter side after scaling, as in the network's own evaluation
_MEAN, _DEVIATION = 127.0, 128.0  # of its input, efficientnet_lite_builder.py
_TOP = 5
_LOOK_S = 0.005

Pixels = NDArray[np.uint8] | NDArray[np.float32]
"""[224, 224, 3] of a picture, or [3, 224, 224] as the network reads it."""


class Classify:
    """EfficientNet-Lite0 and the names of its classes."""

    kind = "classify"
    computes = True
    input_shape = (3, IMAGE_SIZE, IMAGE_SIZE)
    context_tokens = 0

    def __init__(self, network: EfficientNetLite0, labels: Sequence[str], device: torch.device) -> None:
        self._network = network
        self._labels = labels
        self._device = device
        self._dtype = network.stem.weight.dtype
        self._guard = Guard(network, device)
        self._parameters = sum(parameter.numel() for parameter in network.parameters())
        # Decoding a large picture cannot be interrupted: on a thread of its own it holds nobody up.
        self._decoder = ThreadPoolExecutor(1, thread_name_prefix="decode")
        self.batch_items = BATCH_ITEMS[device.type]
        self.output_shape = (network.classes.out_features,)

    def prepare(self, inputs: Sequence[bytes], control: Control) -> Sequence[bytes]:
        """The pictures as they came: decoded, thousands would fill the memory."""
        return inputs

    def plan(self, prepared: Sequence[bytes]) -> list[list[int]]:
        """In order, so many at a time."""
        indices = list(range(len(prepared)))
        return [indices[first : first + self.batch_items] for first in range(0, len(indices), self.batch_items)]

    def run(self, prepared: Sequence[bytes], control: Control) -> Sequence[Outcome]:
        """Decode, and one forward pass over what could be decoded."""
        decoded = self.decode(prepared, control)
        sound = [
            (item, is_array(payload))
            for item, payload in zip(decoded, prepared, strict=True)
            if not isinstance(item, BadInput)
        ]
        pictures, whole = [item for item, _ in sound], [array for _, array in sound]
        results = iter(self.classes(pictures, control, whole) if pictures else ())
        return [item if isinstance(item, BadInput) else next(results) for item in decoded]

    def decode(self, payloads: Sequence[bytes], control: Control) -> Sequence[Pixels | BadInput]:
        """Each picture as the network takes it, or why it is none."""
        decoding = self._decoder.submit(lambda: [_decode(payload, control) for payload in payloads])
        return _wait_for(decoding, control)

    def classes(self, pictures: Sequence[Pixels], control: Control, whole: Sequence[bool] = ()) -> list[bytes]:
        """One forward pass: the result of each; with all logits of those for which `whole` says so."""
        with self._guard.running(control):
            logits = self._network(self._normalised(pictures).to(self._dtype)).float()
            best = logits.topk(_TOP)
            odds = logits.softmax(1).gather(1, best.indices)
            rows = zip(best.indices.tolist(), best.values.tolist(), odds.tolist(), strict=True)
            numbers = logits.cpu().numpy().astype("<f4", copy=False) if any(whole) else None  # [B, C]
        results = [self._result(*row) for row in rows]
        if numbers is not None:
            for place, told in enumerate(whole):
                if told:
                    results[place]["logits"] = base64.b64encode(numbers[place].tobytes()).decode()
        return [json.dumps(result, ensure_ascii=False).encode() for result in results]

    def _normalised(self, pictures: Sequence[Pixels]) -> Tensor:
        """What the network reads, [B, 3, H, W]."""
        if all(picture.dtype == np.uint8 for picture in pictures):
            # [B, H, W, C] in memory and [B, C, H, W] to torch: "channels last".
            pixels = on_device(torch.from_numpy(np.stack(pictures)), self._device).permute(0, 3, 1, 2)
            return (pixels.float() - _MEAN) / _DEVIATION
        alone = [self._normalised([row]) if row.dtype == np.uint8 else self._given(row) for row in pictures]
        return torch.cat(alone)

    def _given(self, tensor: NDArray[Any]) -> Tensor:
        """A tensor [3, H, W] that came so, in the order in memory that pictures have: [1, 3, H, W]."""
        rows = np.ascontiguousarray(tensor.transpose(1, 2, 0))[np.newaxis]
        return on_device(torch.from_numpy(rows), self._device).permute(0, 3, 1, 2)

    def cost(self, prepared: Sequence[bytes], outcomes: Sequence[Outcome]) -> Cost:
        """One pass over the pictures; decoding them is not the accelerator's."""
        count = len(prepared)
        passed = {Phase.ENCODE: operations(self._network, count)}
        return Cost(self._parameters, 0.0, count, {Phase.ENCODE: count}, passed)

    def ordinary_cost(self) -> Cost:
        """Any pictures cost the same."""
        return self.cost([b""] * self.batch_items, ())

    def items_per_s(self) -> float:
        """Speed on photographs of 640 x 480 pixels."""
        noise = np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)
        encoded = io.BytesIO()
        Image.fromarray(noise).resize((640, 480)).save(encoded, "JPEG")
        batch = [encoded.getvalue()] * self.batch_items
        self.run(batch, Control())
        began_s = time.perf_counter()
        for _ in range(2):
            self.run(batch, Control())
        return 2 * len(batch) / (time.perf_counter() - began_s)

    def _result(self, indices: list[int], logits: list[float], odds: list[float]) -> dict[str, Any]:
        classes = [
            {"label": self._labels[index], "index": index, "logit": round(logit, 6), "probability": round(p, 6)}
            for index, logit, p in zip(indices, logits, odds, strict=True)
        ]
        return {"classes": classes}


def load(model: CachedModel, device: str, dtype: str) -> Classify:
    """Load an image classifier. Raises ModelError."""
    place = device_named(device)
    numbers = dtype_named(dtype, place, model)
    network = load_own(EfficientNetLite0, model, numbers, place)
    network.turn()
    network.together = TOGETHER[place.type]
    labels = json.loads((model.directory / "labels.json").read_text(encoding="utf-8"))
    if len(labels) != network.classes.out_features:
        known = network.classes.out_features
        raise ModelError(f"labels.json of {model.name} names {len(labels)} classes, not {known}")
    return Classify(network, labels, place)


def _decode(payload: bytes, control: Control) -> Pixels | BadInput:
    """The middle of a picture, scaled to the network's input."""
    if control.ended:
        return BadInput("stopped")
    if is_array(payload):
        try:
            array = array_of(payload)
            if array.dtype != np.uint8 or array.ndim != 1:
                return _tensor(array)
        except BadInput as bad:
            return bad
        payload = array.tobytes()
    try:
        with Image.open(io.BytesIO(payload), formats=_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                size = f"{image.width} x {image.height}"
                return BadInput(f"the picture has {size} pixels, more than {MAX_PIXELS:,}; make it smaller")
            image.draft("RGB", (2 * IMAGE_SIZE, 2 * IMAGE_SIZE))  # a JPEG can be decoded smaller at once
            picture = ImageOps.exif_transpose(image).convert("RGB")
    except UnidentifiedImageError:
        return BadInput(f"this is not a picture ({', '.join(_FORMATS)} are known)")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return BadInput(f"the picture is broken: {error}")
    side = min(picture.size) * IMAGE_SIZE / (IMAGE_SIZE + _MARGIN)
    left, top = (picture.width - side) / 2, (picture.height - side) / 2
    box = (left, top, left + side, top + side)
    return np.asarray(picture.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC, box=box))


def _tensor(array: NDArray[Any]) -> NDArray[np.float32]:
    """What the network reads, as it was given [3, S, S]. Raises BadInput."""
    if array.shape != Classify.input_shape or array.dtype.kind != "f" or array.dtype.itemsize != 4:
        raise BadInput(
            f"the array is {described(array)}; it must be float32 {list(Classify.input_shape)}, or uint8 [N] of an"
            " encoded picture"
        )
    if not np.isfinite(array).all():
        raise BadInput("the array holds a number that is not finite (NaN or infinite); mend it")
    return array.astype(np.float32, copy=False)


def _wait_for(decoding: Future[list[Pixels | BadInput]], control: Control) -> list[Pixels | BadInput]:
    while not wait([decoding], _LOOK_S).done:
        control.check()
    control.check()
    return decoding.result()
