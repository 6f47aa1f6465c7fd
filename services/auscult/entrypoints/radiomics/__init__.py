"""`auscult radiomics`: the features of regions outlined in images, as CSV, JSON or FHIR."""
