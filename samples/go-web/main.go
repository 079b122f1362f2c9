// An HTTP server in Go, with nothing but its standard library: the runtime listens, and hands it the socket.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"syscall"
	"time"
)

func main() {
	// The first descriptor behind the standard streams; LISTEN_FDS says how many there are.
	listener, err := net.FileListener(os.NewFile(3, "listener"))
	if err != nil {
		log.Fatalf("no socket to listen on, publish or expose a port: %v", err)
	}

	http.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, "Hello from Go")
	})
	http.HandleFunc("POST /echo", func(w http.ResponseWriter, r *http.Request) {
		io.Copy(w, r.Body)
	})
	http.HandleFunc("GET /slow", func(w http.ResponseWriter, r *http.Request) {
		ms, _ := strconv.Atoi(r.FormValue("ms"))
		time.Sleep(time.Duration(ms) * time.Millisecond)
		fmt.Fprintf(w, "after %d ms\n", ms)
	})
	http.Handle("GET /files/", http.StripPrefix("/files/", http.FileServer(http.Dir("/"))))

	server := http.Server{}
	fmt.Println("listening on", os.Getenv("LISTEN_FDNAMES"))
	// When the container is stopped its listening sockets are closed: what is in hand is finished.
	if err = server.Serve(listener); !errors.Is(err, syscall.EINVAL) {
		log.Fatal(err)
	}
	patience, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err = server.Shutdown(patience); err != nil {
		log.Fatal(err)
	}
	fmt.Println("stopped")
}
