"""The catalogue of bad input: a file of cases for each room, in each CASES: name -> (what is called, message)."""
