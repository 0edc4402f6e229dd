// The in-memory Pub/Sub server of Google's own Go client, as a program: for machines where the emulator of the Google
// Cloud CLI is not to be had. Topics and subscriptions are gone when it ends.
//
//	pstest -host 127.0.0.1 -port 8085
//
// Not here: anything that decides what Pub/Sub does. That is all pstest's.
package main

import (
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"cloud.google.com/go/pubsub/v2/pstest"
)

func main() {
	host := flag.String("host", "127.0.0.1", "address to listen on; the port goes into the option of its own")
	port := flag.Int("port", 0, "port to listen on; 0 takes a free one")
	version := flag.Bool("version", false, "print the version of Google's client and end")
	flag.Parse()
	if *version {
		fmt.Println(clientVersion())
		return
	}

	server := pstest.NewServerWithAddress(fmt.Sprintf("%s:%d", *host, *port))
	log.Printf("listening on %s", server.Addr)

	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM, syscall.SIGINT)
	<-ended
	if err := server.Close(); err != nil {
		log.Fatal(err)
	}
}

// clientVersion is that of the module which pstest is a part of.
func clientVersion() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, module := range info.Deps {
		if module.Path == "cloud.google.com/go/pubsub/v2" {
			return module.Version
		}
	}
	return "unknown"
}
