"""Studies: what a sweep searches, read from TOML and checked whole before anything runs."""

from fedmm.study.definition import Plan, Study, Variant
from fedmm.study.files import Changes, read_study
from fedmm.study.search_option import parse_search
from fedmm.study.shipped import list_studies, load_study, searched_study
from fedmm.study.space import VARIANT, Choices, Condition, Parameter, Range
from fedmm.study.writing import dump_study

__all__ = [
    "VARIANT",
    "Changes",
    "Choices",
    "Condition",
    "Parameter",
    "Plan",
    "Range",
    "Study",
    "Variant",
    "dump_study",
    "list_studies",
    "load_study",
    "parse_search",
    "read_study",
    "searched_study",
]
