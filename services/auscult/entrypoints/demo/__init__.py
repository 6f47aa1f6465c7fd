"""`auscult demo`: the whole product on one machine, as separate processes on the embedded defaults."""
