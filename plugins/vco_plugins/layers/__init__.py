"""What JiT-like backbones are made of: embeddings, rotary attention, gated adaLN blocks, heads.

A block is an `Attention` (projections, per-head norms, output) and, for every stream, a `StreamBlock` (norms, SwiGLU,
adaLN). A single-stream network joins one of each in a `Block`; streams with joint attention share `joint_attention`.

All layers set their own initial weights: Xavier-uniform and zero bias for linear layers, zero for adaLN and heads, so
that an untrained network predicts zeros. Fixed tables are float32 buffers outside the checkpoint.

Source: JiT (arXiv 2511.13720), V-Co (arXiv 2603.16792), DiT (arXiv 2212.09748) for adaLN-Zero.
"""

from vco_plugins.layers.attention import QKV as QKV
from vco_plugins.layers.attention import Attention as Attention
from vco_plugins.layers.attention import Heads as Heads
from vco_plugins.layers.attention import Positions as Positions
from vco_plugins.layers.attention import Rope2d as Rope2d
from vco_plugins.layers.attention import joint_attention as joint_attention
from vco_plugins.layers.basic import AdaLN as AdaLN
from vco_plugins.layers.basic import Modulation as Modulation
from vco_plugins.layers.basic import RMSNorm as RMSNorm
from vco_plugins.layers.basic import SwiGLU as SwiGLU
from vco_plugins.layers.basic import Tokens as Tokens
from vco_plugins.layers.basic import Told as Told
from vco_plugins.layers.basic import at_least_float32 as at_least_float32
from vco_plugins.layers.basic import linear as linear
from vco_plugins.layers.basic import mlp as mlp
from vco_plugins.layers.basic import modulate as modulate
from vco_plugins.layers.basic import of_tokens as of_tokens
from vco_plugins.layers.blocks import Block as Block
from vco_plugins.layers.blocks import Head as Head
from vco_plugins.layers.blocks import StreamBlock as StreamBlock
from vco_plugins.layers.class_token import CLASS_TOKEN as CLASS_TOKEN
from vco_plugins.layers.class_token import ClassToken as ClassToken
from vco_plugins.layers.embeddings import Conditioning as Conditioning
from vco_plugins.layers.embeddings import GapEmbed as GapEmbed
from vco_plugins.layers.embeddings import PatchEmbed as PatchEmbed
from vco_plugins.layers.embeddings import TimeEmbed as TimeEmbed
from vco_plugins.layers.embeddings import TokenEmbed as TokenEmbed
from vco_plugins.layers.embeddings import told_together as told_together
from vco_plugins.layers.embeddings import unpatchify as unpatchify
from vco_plugins.layers.tables import sincos_2d as sincos_2d
