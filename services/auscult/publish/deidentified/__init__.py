"""Cohorts without identities, for validation and training: DICOM per PS3.15 Annex E, FHIR by allow-list."""
