# The public names, and where each is defined: read by type checkers, and by lazy_loader at run time.
from .bins import Binned as Binned
from .datasets import (
    Batch as Batch,
)
from .datasets import (
    Dataset as Dataset,
)
from .datasets import (
    Split as Split,
)
from .datasets import (
    minibatches as minibatches,
)
from .datasets import (
    split_rows as split_rows,
)
from .density import (
    LogDensity as LogDensity,
)
from .density import (
    log_density as log_density,
)
from .distributions import (
    Mixture as Mixture,
)
from .distributions import (
    VonMises as VonMises,
)
from .distributions import (
    kl as kl,
)
from .distributions import (
    normal as normal,
)
from .distributions import (
    von_mises as von_mises,
)
from .errors import (
    BFNError as BFNError,
)
from .errors import (
    BFNWarning as BFNWarning,
)
from .errors import (
    ConfigError as ConfigError,
)
from .errors import (
    DataError as DataError,
)
from .errors import (
    NonFiniteError as NonFiniteError,
)
from .errors import (
    OutOfStepError as OutOfStepError,
)
from .errors import (
    PluginError as PluginError,
)
from .errors import (
    ResourceError as ResourceError,
)
from .errors import (
    RunDirectoryError as RunDirectoryError,
)
from .errors import (
    StepCountError as StepCountError,
)
from .errors import (
    UnknownPlugin as UnknownPlugin,
)
from .evaluation import (
    Estimate as Estimate,
)
from .evaluation import (
    LikelihoodBound as LikelihoodBound,
)
from .evaluation import (
    likelihood_bound as likelihood_bound,
)
from .evaluation import (
    mmd as mmd,
)
from .evaluation import (
    sliced_w1 as sliced_w1,
)
from .evaluation import (
    w1 as w1,
)
from .experiment import Experiment as Experiment
from .experiment import Training as Training
from .families import (
    AdditiveFamily as AdditiveFamily,
)
from .families import (
    ChannelFamily as ChannelFamily,
)
from .families import (
    Family as Family,
)
from .families import (
    OutputHead as OutputHead,
)
from .families import (
    SteppedFamily as SteppedFamily,
)
from .grids import (
    GivenGrid as GivenGrid,
)
from .grids import (
    KarrasGrid as KarrasGrid,
)
from .grids import (
    LogSnrGrid as LogSnrGrid,
)
from .grids import (
    TimeGrid as TimeGrid,
)
from .grids import (
    UniformGrid as UniformGrid,
)
from .guidance import Guided as Guided
from .guidance import guide as guide
from .hookspecs import HOOK_API as HOOK_API
from .hookspecs import Entry as Entry
from .hookspecs import hookimpl as hookimpl
from .interrupts import Interrupted as Interrupted
from .journal import Moment as Moment
from .known import Informed as Informed
from .known import Known as Known
from .known import Pinned as Pinned
from .known import pin as pin
from .losses import (
    ContinuousTimeLoss as ContinuousTimeLoss,
)
from .losses import (
    DiscreteTimeLoss as DiscreteTimeLoss,
)
from .losses import (
    Loss as Loss,
)
from .losses import (
    Model as Model,
)
from .losses import (
    Price as Price,
)
from .losses import (
    ReconstructionLoss as ReconstructionLoss,
)
from .losses import (
    draw_times as draw_times,
)
from .model import BFN as BFN
from .model import FlowModel as FlowModel
from .model import Oracle as Oracle
from .networks import Network as Network
from .networks import NetworkBuilder as NetworkBuilder
from .networks import NetworkIO as NetworkIO
from .outputs import (
    Delta as Delta,
)
from .outputs import (
    Finite as Finite,
)
from .outputs import (
    Kernel as Kernel,
)
from .outputs import (
    NormalMixture as NormalMixture,
)
from .outputs import (
    Output as Output,
)
from .outputs import (
    SiteNormalMixture as SiteNormalMixture,
)
from .particles import (
    ParticleSampler as ParticleSampler,
)
from .particles import (
    settle as settle,
)
from .products import (
    Joint as Joint,
)
from .products import (
    JointOutput as JointOutput,
)
from .products import (
    ProductFamily as ProductFamily,
)
from .randomness import seed_of as seed_of
from .randomness import seeded as seeded
from .registry import Registry as Registry
from .runs import Run as Run
from .runs import load_run as load_run
from .samplers import AncestralSampler as AncestralSampler
from .samplers import Evaluation as Evaluation
from .samplers import Sampler as Sampler
from .samplers import SamplerState as SamplerState
from .schedules import (
    AccuracySchedule as AccuracySchedule,
)
from .schedules import (
    GeometricSchedule as GeometricSchedule,
)
from .schedules import (
    QuadraticSchedule as QuadraticSchedule,
)
from .schedules import (
    TableSchedule as TableSchedule,
)
from .shapes import (
    as_shape as as_shape,
)
from .shapes import (
    batch_size as batch_size,
)
from .shapes import (
    expand as expand,
)
from .shapes import (
    per_example as per_example,
)
from .shapes import (
    select as select,
)
from .solvers import (
    ODE1 as ODE1,
)
from .solvers import (
    ODE2 as ODE2,
)
from .solvers import (
    SDE1 as SDE1,
)
from .solvers import (
    SDE2 as SDE2,
)
from .solvers import (
    EulerMaruyama as EulerMaruyama,
)
from .solvers import (
    FlowSampler as FlowSampler,
)
from .solvers import (
    ODEMidpoint as ODEMidpoint,
)
from .solvers import (
    Path as Path,
)
from .solvers import (
    Solver as Solver,
)
from .solvers import (
    SolverState as SolverState,
)
from .solvers import (
    default_sampler as default_sampler,
)
from .steering import Steered as Steered
from .trainer import resume as resume
from .trainer import train as train
from .validators import finite as finite
