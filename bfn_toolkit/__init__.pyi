# The public names, and where each is defined: read by type checkers, and by lazy_loader at run time.
from . import validators as validators
from .bfn import BFN as BFN, FlowModel as FlowModel, Oracle as Oracle
from .binned_outputs import Binned as Binned
from .config.experiment import Experiment as Experiment, Training as Training
from .data.codec import Codec as Codec, comparison as comparison
from .data.column_codecs import IdentityCodec as IdentityCodec, TableCodec as TableCodec
from .data.dataset import (
    Batch as Batch,
    Dataset as Dataset,
    Recognised as Recognised,
    Rows as Rows,
    Split as Split,
    split_rows as split_rows,
)
from .data.formats import (
    ArrayFormat as ArrayFormat,
    Cells as Cells,
    FolderFormat as FolderFormat,
    Format as Format,
    LinesFormat as LinesFormat,
    TableFormat as TableFormat,
    array_header as array_header,
)
from .data.image_codec import ImageCodec as ImageCodec
from .data.loader import minibatches as minibatches
from .data.parts_codec import PartsCodec as PartsCodec
from .data.rows import ArrayRows as ArrayRows
from .data.text_codec import TextCodec as TextCodec
from .data.typed_columns import TypedColumn as TypedColumn
from .distributions import (
    Mixture as Mixture,
    VonMises as VonMises,
    as_batch as as_batch,
    control_variate as control_variate,
    kl as kl,
    moments_near as moments_near,
    normal as normal,
    von_mises as von_mises,
)
from .errors import (
    BFNError as BFNError,
    BFNWarning as BFNWarning,
    ConfigError as ConfigError,
    DataError as DataError,
    NonFiniteError as NonFiniteError,
    OutOfStepError as OutOfStepError,
    PluginError as PluginError,
    ResourceError as ResourceError,
    RunDirectoryError as RunDirectoryError,
    StepCountError as StepCountError,
    UnknownPlugin as UnknownPlugin,
    did_you_mean as did_you_mean,
)
from .evaluation.chain_rule import RowPrices as RowPrices, row_prices as row_prices
from .evaluation.density import LogDensity as LogDensity, log_density as log_density
from .evaluation.distances import mmd as mmd, sliced_w1 as sliced_w1, w1 as w1
from .evaluation.importance import ImportanceBound as ImportanceBound, importance_bound as importance_bound
from .evaluation.likelihood import (
    Estimate as Estimate,
    LikelihoodBound as LikelihoodBound,
    likelihood_bound as likelihood_bound,
)
from .evaluation.memorisation import (
    Neighbours as Neighbours,
    distance_scores as distance_scores,
    longest_matches as longest_matches,
    nearest_rows as nearest_rows,
    train_share as train_share,
)
from .evaluation.raw_prices import RawPrices as RawPrices, raw_prices as raw_prices
from .families import (
    AdditiveFamily as AdditiveFamily,
    ChannelFamily as ChannelFamily,
    ExampleKind as ExampleKind,
    Family as Family,
    OutputHead as OutputHead,
    Part as Part,
    SteppedFamily as SteppedFamily,
    check_finite as check_finite,
    check_site_shape as check_site_shape,
    check_values as check_values,
)
from .guidance.classifier_free import Guided as Guided, guide as guide
from .guidance.gradient import GradientGuided as GradientGuided
from .guidance.particle_filter import ParticleSampler as ParticleSampler, mask_unobserved as mask_unobserved
from .guidance.regions import (
    CellConditions as CellConditions,
    Region as Region,
    RegionSampler as RegionSampler,
    class_logits as class_logits,
)
from .losses import (
    ContinuousTimeLoss as ContinuousTimeLoss,
    CrossEntropyLoss as CrossEntropyLoss,
    DiscreteTimeLoss as DiscreteTimeLoss,
    Loss as Loss,
    NatsLoss as NatsLoss,
    ReconstructionLoss as ReconstructionLoss,
    draw_held as draw_held,
    output_at as output_at,
)
from .masks import marginal as marginal, mask_of as mask_of, present as present
from .model import Condition as Condition, Model as Model, ModelWrapper as ModelWrapper
from .network_io import (
    FlatView as FlatView,
    ImageView as ImageView,
    NetworkIO as NetworkIO,
    PartIO as PartIO,
    TokenGroup as TokenGroup,
    TokenView as TokenView,
    as_axes as as_axes,
    check_axes as check_axes,
)
from .networks import (
    LabelEmbedding as LabelEmbedding,
    Network as Network,
    NetworkBuilder as NetworkBuilder,
    check_labels as check_labels,
)
from .outputs import (
    Delta as Delta,
    Finite as Finite,
    Kernel as Kernel,
    NormalMixture as NormalMixture,
    Output as Output,
    SiteNormalMixture as SiteNormalMixture,
    affine_expectation as affine_expectation,
)
from .parallel.signals import Interrupted as Interrupted
from .product_family import Joint as Joint, JointOutput as JointOutput, ProductFamily as ProductFamily
from .randomness import (
    common as common,
    per_piece as per_piece,
    redrawn as redrawn,
    seed_of as seed_of,
    seeded as seeded,
    streams as streams,
)
from .registry.hookspecs import HOOK_API as HOOK_API, Entry as Entry, hookimpl as hookimpl
from .registry.registry import Registry as Registry
from .runs.run import Run as Run, load_run as load_run
from .sampling.ancestral import AncestralSampler as AncestralSampler
from .sampling.churn import ChurnSampler as ChurnSampler
from .sampling.default import default_reason as default_reason, default_sampler as default_sampler
from .sampling.draws import Draws as Draws
from .sampling.inpainting import (
    Clamped as Clamped,
    InpaintedModel as InpaintedModel,
    Observed as Observed,
    clamp as clamp,
)
from .sampling.masked import MaskedModel as MaskedModel, mask_of_sizes as mask_of_sizes
from .sampling.sampler import Sampler as Sampler, SamplerState as SamplerState, SamplerStep as SamplerStep
from .sampling.site_times import (
    AnyOrderSampler as AnyOrderSampler,
    KnownFirstSampler as KnownFirstSampler,
    PartTimesSampler as PartTimesSampler,
)
from .sampling.solvers import (
    ODE1 as ODE1,
    ODE2 as ODE2,
    SDE1 as SDE1,
    SDE2 as SDE2,
    EulerMaruyama as EulerMaruyama,
    FlowSampler as FlowSampler,
    ODEMidpoint as ODEMidpoint,
    Solver as Solver,
    SolverPath as SolverPath,
    SolverState as SolverState,
)
from .sampling.time_grids import (
    GivenGrid as GivenGrid,
    KarrasGrid as KarrasGrid,
    LogSnrGrid as LogSnrGrid,
    TimeGrid as TimeGrid,
    UniformGrid as UniformGrid,
)
from .schedules import (
    AccuracySchedule as AccuracySchedule,
    GeometricSchedule as GeometricSchedule,
    QuadraticSchedule as QuadraticSchedule,
    TableSchedule as TableSchedule,
)
from .shapes import (
    as_shape as as_shape,
    batch_size as batch_size,
    by_example as by_example,
    coefficient as coefficient,
    expand as expand,
    fit as fit,
    in_float64 as in_float64,
    per_example as per_example,
    plus as plus,
    same_for_all as same_for_all,
    select as select,
    weighted as weighted,
)
from .time_distributions import (
    ImportanceTimes as ImportanceTimes,
    LearnedTimes as LearnedTimes,
    LogNormalTimes as LogNormalTimes,
    PiecewiseTimes as PiecewiseTimes,
    TimeDistribution as TimeDistribution,
    Times as Times,
    UniformTimes as UniformTimes,
    draw_times as draw_times,
)
from .training.metrics import TrainingEvent as TrainingEvent
from .training.trainer import resume as resume, train as train
from .untrusted import open_regular as open_regular, tensors_header as tensors_header
from .validators import finite as finite

__version__: str
