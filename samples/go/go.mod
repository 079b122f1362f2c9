module sampan/samples/go

go 1.22
