;; Asks WASI for the folders that it was given: there is none.
(module
  (import "wasi:filesystem/preopens@0.2.0" "get-directories" (func $folders (param i32)))
  ;; @answers
  ;; @heap
  (data (i32.const 2048) "no folder is there")
  (func (export "sandpost:plugin/handler@0.1.0#handle") (param $message i32) (result i32)
    (call $folders (i32.const 4096))
    (if (i32.load (i32.const 4100)) (then (return (call $ack))))
    (call $reject (i32.const 2048) (i32.const 18))))
