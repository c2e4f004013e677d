// Package quoratev1 is the streaming protocol of a node, generated from
// work.proto: messages, and the client and handler of the service quorate.v1.Work
// for Connect, gRPC and gRPC-Web.
//
// The generated files change only with the protocol:
//
//	go generate ./node/api/quoratev1
//
// needs protoc, protoc-gen-go and protoc-gen-connect-go.
package quoratev1

//go:generate protoc --go_out=. --go_opt=paths=source_relative --connect-go_out=. --connect-go_opt=paths=source_relative,package_suffix= work.proto
