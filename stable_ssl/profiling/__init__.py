"""Where time and memory go: of the data, of a training step."""

from stable_ssl.profiling.data import profile_data
from stable_ssl.profiling.model import endless, profile_model
from stable_ssl.profiling.tables import data_tables, model_tables

__all__ = ["data_tables", "endless", "model_tables", "profile_data", "profile_model"]
