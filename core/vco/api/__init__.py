"""The contracts of vco: THE package to read before writing a plugin. One file holds one kind of component.

    images, labels, extras                     Data
      -> image stream                          Codec (pixels: the images themselves)
      -> {encoder: Features}                   FeatureSource, several of them
      -> streams                               Adapter
      -> x_t = t * x + (1 - t) * noise         Process (times), Guidance (what is hidden)
      -> Denoised                              Backbone
      -> losses                                Loss, each given a Step
      -> weights                               Optimizer
    sampling: noise -> Solver along Process.path, each velocity from Guidance over its branches -> Codec -> Metric

Conventions that hold everywhere:

* Time `t` runs from 0 = noise to 1 = data; `x_t = t * x + (1 - t) * noise_scale * eps` (`vco.flow`).
* Streams: "image" is what the codec makes of the images ([b, c, h, w]: pixels in [-1, 1], or latents); "features" is
  [b, n, d], tokens in row-major order of their grid; a plugin may add others, such as "class_token" [b, 1, d].
* Every component is built as `Class(config, setting)`. `config` is what the user may set: the nested `Config` (attrs,
  frozen, keyword-only), whose fields each have a default, a validator where values can be wrong, and a docstring line
  with unit and range, which becomes the help text. `setting` is a frozen object with the facts of the run that its kind
  needs, such as `BackboneSetting`; facts may be added to it without breaking a plugin.
* Output follows input in dtype and device. Row i of an output depends only on row i of the inputs, unless the component
  says `couples_batch`. Inputs are not modified. Randomness comes only from what is handed in.
* Parameters and buffers of a component are trained, averaged (EMA) and saved. `FeatureSource` and `Codec` are frozen
  and are not.
* Shapes in annotations: b batch, c channels, h w height and width, n tokens, d token width.
"""

from vco.api.adapter import Adapted as Adapted
from vco.api.adapter import Adapter as Adapter
from vco.api.adapter import AdapterSetting as AdapterSetting
from vco.api.backbone import Backbone as Backbone
from vco.api.backbone import BackboneSetting as BackboneSetting
from vco.api.backbone import Denoised as Denoised
from vco.api.backbone import PublishedWeights as PublishedWeights
from vco.api.backbone import Tap as Tap
from vco.api.codec import MOMENTS as MOMENTS
from vco.api.codec import Codec as Codec
from vco.api.codec import CodecSetting as CodecSetting
from vco.api.component import Component as Component
from vco.api.condition import Condition as Condition
from vco.api.data import Blocks as Blocks
from vco.api.data import Data as Data
from vco.api.data import DataSetting as DataSetting
from vco.api.data import ImageSet as ImageSet
from vco.api.features import Features as Features
from vco.api.features import FeatureSetting as FeatureSetting
from vco.api.features import FeatureSource as FeatureSource
from vco.api.features import FeatureSpec as FeatureSpec
from vco.api.features import ReadsFeatures as ReadsFeatures
from vco.api.features import chosen_features as chosen_features
from vco.api.guidance import Guidance as Guidance
from vco.api.guidance import GuidanceSetting as GuidanceSetting
from vco.api.loss import Loss as Loss
from vco.api.loss import LossSetting as LossSetting
from vco.api.metric import Metric as Metric
from vco.api.metric import MetricSetting as MetricSetting
from vco.api.metric import Moments as Moments
from vco.api.metric import Score as Score
from vco.api.optimizer import Optimizer as Optimizer
from vco.api.optimizer import OptimizerSetting as OptimizerSetting
from vco.api.optimizer import ParameterGroup as ParameterGroup
from vco.api.process import Process as Process
from vco.api.process import ProcessSetting as ProcessSetting
from vco.api.recipe import Recipe as Recipe
from vco.api.recipe import RecipeSetting as RecipeSetting
from vco.api.solver import Noise as Noise
from vco.api.solver import Solver as Solver
from vco.api.solver import SolverSetting as SolverSetting
from vco.api.solver import Velocity as Velocity
from vco.api.step import Network as Network
from vco.api.step import Step as Step
from vco.api.streams import FEATURES as FEATURES
from vco.api.streams import IMAGE as IMAGE
from vco.api.streams import Streams as Streams
from vco.api.streams import StreamSpec as StreamSpec
from vco.api.streams import Times as Times
from vco.api.views import EncoderPrecision as EncoderPrecision
from vco.api.views import Views as Views
from vco.collectives import gather_rows as gather_rows
from vco.collectives import sum_over_processes as sum_over_processes
from vco.errors import UserError as UserError
from vco.hooks import hookimpl as hookimpl
from vco.randomness import RowGenerator as RowGenerator
