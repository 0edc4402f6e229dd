// Which FerretDB is built, for machines without MongoDB: its module, by version and checksum. What it needs besides is in
// its own go.mod.
module sandpost/ferretdb

go 1.22

require github.com/FerretDB/FerretDB v1.24.0 // indirect
