"""Building blocks of convolutional networks other than plain convolutions: factored ones, gates, shuffles, and
anti-aliased strides.

Cost is given in parameters and in MACs (multiply-adds) per sample, including taps in padding. |y| is the number of
output positions.
"""

from .blur_pool import BlurPool1d, BlurPool2d, BlurPool3d
from .blur_pool import _BlurPool as _BlurPool
from .bottleneck import Bottleneck
from .channel_shuffle import ChannelShuffle
from .conv_norm_act import ConvNormAct, ConvNormAct1d, ConvNormAct2d, ConvNormAct3d
from .depthwise import DepthwiseConv1d, DepthwiseConv2d, DepthwiseConv3d
from .depthwise_separable import DepthwiseSeparableConv1d, DepthwiseSeparableConv2d, DepthwiseSeparableConv3d
from .pointwise import PointwiseConv1d, PointwiseConv2d, PointwiseConv3d
from .spatially_separable import SpatiallySeparableConv2d
from .squeeze_excite import SqueezeExcite

__all__ = [
    "BlurPool1d",
    "BlurPool2d",
    "BlurPool3d",
    "Bottleneck",
    "ChannelShuffle",
    "ConvNormAct",
    "ConvNormAct1d",
    "ConvNormAct2d",
    "ConvNormAct3d",
    "DepthwiseConv1d",
    "DepthwiseConv2d",
    "DepthwiseConv3d",
    "DepthwiseSeparableConv1d",
    "DepthwiseSeparableConv2d",
    "DepthwiseSeparableConv3d",
    "PointwiseConv1d",
    "PointwiseConv2d",
    "PointwiseConv3d",
    "SpatiallySeparableConv2d",
    "SqueezeExcite",
]
