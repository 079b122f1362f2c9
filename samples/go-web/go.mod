module sampan/samples/go-web

go 1.22
