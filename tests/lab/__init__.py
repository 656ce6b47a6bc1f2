"""Labs: real containers and namespaces, made for one test run and gone after it."""
