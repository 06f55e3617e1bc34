"""Is it valid? A PROV document by the standard, and an archive by what it says of itself.

    claims       which rules of PROV-CONSTRAINTS are checked, and which not, and why
    literals     typed values and times as XML Schema writes them
    statements   a document as statements, from PROV-JSON or from a document of `prov`
    rdf          what RDF says that `prov` does not read as statements
    merging      the statements in normal form: what is one statement becomes one (22-29), unknown arguments are terms
    ordering     the events of the statements, and whether they can lie in one order (30-49)
    constraints  the whole: `violations` of a document
    document     what yprov promises of prov.json beyond the standard
    crate        the files of an archive and their checksums
    agreement    the crate and prov.json: one run, and the same of it
    series       what prov.json says of the series, computed again, and whether all of the store is there
    costs        what prov.json says of joules and seconds, against the tables of meters and accounts

`yprovd.stitch.validate` is the door. Only `series` and `costs` need numpy and zarr.
"""
