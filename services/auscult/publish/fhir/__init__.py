"""The record: whose the study is, what is known of them, and results out as FHIR R4 resources."""
