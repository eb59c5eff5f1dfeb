// Package screen is the page that a machine shows to whoever stands before it while
// it is replaced: what happens, how far it is, how long it takes yet, and whether it
// may be switched off.
//
// Only PID 1 draws. What the worker does reaches it as events, so that a worker that
// dies leaves a whole page behind. What is shown is a pure function of a State:
// compose chooses the words, layout sets them for a size of the terminal, draw finds
// the bytes that turn one picture into the next.
package screen
