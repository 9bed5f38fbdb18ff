"""Motion in the files of other programs: Live Link Face CSV, glTF, USD."""
