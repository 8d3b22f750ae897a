"""Persist: a fit and its data in one file."""

from jaxmf.persist.fits import load, save

__all__ = ["load", "save"]
