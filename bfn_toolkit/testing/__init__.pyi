# The public names of the kit: read by type checkers, and by lazy_loader at run time.
from .cases import Case as Case, register_profiles as register_profiles
from .kit import (
    Verdict as Verdict,
    check as check,
    check_dataset as check_dataset,
    check_family as check_family,
    check_loss as check_loss,
    check_network as check_network,
    check_sampler as check_sampler,
    check_schedule as check_schedule,
    check_time_distribution as check_time_distribution,
    parametrize_datasets as parametrize_datasets,
    parametrize_families as parametrize_families,
    parametrize_losses as parametrize_losses,
    parametrize_networks as parametrize_networks,
    parametrize_samplers as parametrize_samplers,
    parametrize_schedules as parametrize_schedules,
    parametrize_time_distributions as parametrize_time_distributions,
    verdicts as verdicts,
)
from .laws import LAWS as LAWS, Law as Law, LawBroken as LawBroken
