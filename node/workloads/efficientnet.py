"""EfficientNet-Lite0: our own small definition (Tan and Le, 2019; the "lite" form has ReLU6 and no squeeze-and-
excitation), for weights whose batch normalisations were folded into the convolutions.

It knows tensors only: pictures in, logits out. TensorFlow's SAME padding puts an odd pixel right and below, torch's
convolutions left and above: so pictures and filters are turned by half a turn, which comes to the same, and nothing
is copied to be padded.
"""

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from node.roofline import Operation, elementwise, linear

IMAGE_SIZE = 224
"""Height and width of its input, pixels."""

_STAGES = (
    # repeats, kernel, stride, expansion, channels out: efficientnet_lite_builder.py of the TensorFlow TPU models
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_STEM = 32
_HEAD = 1280
_CLASSES = 1000
_EPSILON = 1e-3  # of its batch normalisations, same source
_WIDE = 5  # blocks that, like the stem, make more values of a few pictures than a core's cache holds


class SameConvolution(nn.Conv2d):
    """A convolution whose output has ceil(input / stride) pixels a side."""

    def __init__(
        self, channels_in: int, channels_out: int, kernel: int = 1, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__(channels_in, channels_out, kernel, stride, padding=kernel // 2, groups=groups)


class Block(nn.Module):
    """Inverted bottleneck: widen, filter each channel by itself, narrow; added to its input where shapes agree."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = channels_in * expansion
        self.expand = SameConvolution(channels_in, wide) if expansion > 1 else None
        self.depthwise = SameConvolution(wide, wide, kernel, stride, groups=wide)
        self.project = SameConvolution(wide, channels_out)
        self.residual = stride == 1 and channels_in == channels_out

    def forward(self, pixels: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C', H', W']"""
        wide = pixels if self.expand is None else _relu6(self.expand(pixels))
        narrow: Tensor = self.project(_relu6(self.depthwise(wide)))
        return narrow.add_(pixels) if self.residual else narrow


class EfficientNetLite0(nn.Module):
    """The network, for inference only. Its parameters are named after the parts below: stem, blocks.0 to blocks.15,
    head, classes; `turn` them before it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.together = 1  # pictures that pass through the wide layers at once
        self.stem = SameConvolution(3, _STEM, 3, 2)
        self.blocks = nn.Sequential(*_blocks())
        self.head = SameConvolution(_STAGES[-1][-1], _HEAD)
        self.classes = nn.Linear(_HEAD, _CLASSES)

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalised pictures [B, 3, 224, 224] -> logits [B, 1000]"""
        parts = pixels.flip(2, 3).split(self.together)
        narrow = torch.cat([self.blocks[:_WIDE](_relu6(self.stem(part))) for part in parts])
        features = _relu6(self.head(self.blocks[_WIDE:](narrow)))
        logits: Tensor = self.classes(features.mean((2, 3)))
        return logits

    def turn(self) -> None:
        """Turn the filters by half a turn, as pictures are, and lay channels last, faster on CPU and GPU alike."""
        for layer in self.modules():
            if isinstance(layer, SameConvolution) and layer.kernel_size[0] > 1:
                layer.weight.data = layer.weight.flip(2, 3)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def operations(network: EfficientNetLite0, pictures: int) -> tuple[Operation, ...]:
    """What one pass over so many pictures consists of."""
    whole, rest = divmod(pictures, network.together)
    parts = [(count, times) for count, times in ((network.together, whole), (rest, 1)) if count * times]
    made: list[Operation] = [elementwise(7.0 * pictures * 3 * IMAGE_SIZE**2)]  # in fp32, normalised, turned
    side = IMAGE_SIZE
    for place, piece in enumerate((network.stem, *network.blocks, network.head)):
        if place > _WIDE:
            parts = [(pictures, 1)]
        for name, layer in piece.named_modules():
            if isinstance(layer, SameConvolution):
                before, side = side, math.ceil(side / layer.stride[0])
                for count, times in parts:
                    made.append(_convolution(layer, count, before, side, times))
                    if name != "project":
                        made.append(elementwise(2.0 * count * side**2 * layer.out_channels, times))  # ReLU6
        if isinstance(piece, Block) and piece.residual:
            values = side**2 * piece.project.out_channels
            made += [elementwise(3.0 * count * values, times) for count, times in parts]
    made.append(elementwise(float(pictures * side**2 * _HEAD)))  # averaged
    made.append(linear(pictures, _HEAD, _CLASSES))
    return tuple(made)


def _convolution(layer: SameConvolution, pictures: int, before: int, after: int, times: int) -> Operation:
    """Of so many pictures, from so many pixels a side to so many."""
    inputs, outputs = pictures * before**2 * layer.in_channels, pictures * after**2 * layer.out_channels
    inner, moved = layer.weight[0].numel(), inputs + outputs + layer.weight.numel()
    # A filter of one channel by itself is no product of matrices: its pixels move, that is all.
    thinnest = min(pictures * after**2, inner, layer.out_channels) if layer.groups == 1 else math.inf
    return Operation(2.0 * outputs * inner, moved, times, thinnest)


def _relu6(pixels: Tensor) -> Tensor:
    """In place: it is the convolution's own result, still in the cache."""
    return functional.relu6(pixels, inplace=True)


def _blocks() -> Iterator[Block]:
    channels = _STEM
    for repeats, kernel, stride, expansion, channels_out in _STAGES:
        for repeat in range(repeats):
            yield Block(channels, channels_out, kernel, stride if repeat == 0 else 1, expansion)
            channels = channels_out


def fold(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The parameters of EfficientNetLite0 from those of the published PyTorch port: every batch normalisation
    becomes a factor and a bias of the convolution before it."""
    pairs = {"stem": ("_conv_stem", "_bn0"), "head": ("_conv_head", "_bn1")}
    for index, block in enumerate(_blocks()):
        port = f"_blocks.{index}"
        norms = iter(("_bn0", "_bn1", "_bn2") if block.expand is not None else ("_bn1", "_bn2"))
        if block.expand is not None:
            pairs[f"blocks.{index}.expand"] = (f"{port}._expand_conv", f"{port}.{next(norms)}")
        pairs[f"blocks.{index}.depthwise"] = (f"{port}._depthwise_conv", f"{port}.{next(norms)}")
        pairs[f"blocks.{index}.project"] = (f"{port}._project_conv", f"{port}.{next(norms)}")
    folded = {"classes.weight": state["_fc.weight"], "classes.bias": state["_fc.bias"]}
    for name, (convolution, norm) in pairs.items():
        variance = state[f"{norm}.running_var"].double()
        scale = state[f"{norm}.weight"].double() / torch.sqrt(variance + _EPSILON)
        weight = state[f"{convolution}.weight"].double() * scale[:, None, None, None]
        bias = state[f"{norm}.bias"].double() - state[f"{norm}.running_mean"].double() * scale
        folded[f"{name}.weight"], folded[f"{name}.bias"] = weight.float(), bias.float()
    return folded
