// A command in Go: goroutines work, on the one thread that there is.
package main

import (
	"fmt"
	"os"
	"runtime"
	"sync"
)

func main() {
	fmt.Printf("Hello from Go, %s on %s/%s\n", runtime.Version(), runtime.GOOS, runtime.GOARCH)

	squares := make([]int, 5)
	var group sync.WaitGroup
	for i := range squares {
		group.Add(1)
		go func() {
			defer group.Done()
			squares[i] = i * i
		}()
	}
	group.Wait()
	fmt.Println("squares:", squares)

	for _, path := range os.Args[1:] {
		text, err := os.ReadFile(path)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Stdout.Write(text)
	}
}
