"""Is it valid? A PROV document by the standard, and an archive by what it says of itself.

    claims       which rules of PROV-CONSTRAINTS are checked, and which not, and why
    statements   a document as statements, from PROV-JSON or from a document of `prov`
    merging      the statements in normal form: what is one statement becomes one (22-29), unknown arguments are terms
    ordering     the events of the statements, and whether they can lie in one order (30-49)
    constraints  the whole: `violations` of a document
    document     what yprov promises of prov.json beyond the standard
    crate        the files of an archive and their checksums
    series       what prov.json says of the series, computed again

`yprovd.stitch.validate` is the door. Only `series` needs numpy and zarr.
"""
