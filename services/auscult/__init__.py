"""Auscult: interoperable clinical decision-support microservices."""

__version__ = "0.1.0"
