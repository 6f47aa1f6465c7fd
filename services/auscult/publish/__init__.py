"""Results out: to the FHIR server and the PACS."""
