import random
import numpy as np
from test_bodies import *
from dvidfs.engine import repos
from dvidfs.types.labelmap import points, check
from dvidfs.engine.check import check_store
from dvidfs.types.builtin import registry

def test_a(engine):
    w=Work(engine); v=w.versions
    root=1
    P=FRAME.places()
    def paint(ver, place, label):
        v.write(ver, lambda view: blocks.write_blocks(view,[place],np.full((1,16,16,16),label,np.uint64),"mutate"))
    paint(root,P[0],5)
    a=v.child(root); b=v.child(root)
    paint(a,P[0],6); paint(b,P[0],7); paint(b,P[1],8); paint(a,P[2],5)
    m,conf=v.merge(a,b)
    print("conf",{k:(d.count,d.keys) for k,d in conf.items()})
    def show(view):
        for body in (5,6,7,8):
            print(body, by_block(bodies.of_body(view,body)), bodies.size(view,body))
        try: print(np.unique(voxels_of(view)))
        except Exception as e: print("ERR",repr(e))
    v.read(m,show)
    print([p for p in check_store(engine,deep=True,verifier=lambda n: registry()[n].verify).problems])
    try: paint(m,P[0],9)
    except Exception as e: print("paint ERR",repr(e))
    v.read(m,show)
    # resolve
    a2=v.child(root); b2=v.child(root)
    paint(a2,P[0],6); paint(b2,P[0],7); paint(b2,P[1],8); paint(a2,P[2],5)
    v.commit(a2); v.commit(b2)
    r=engine.write(lambda txn: repos.resolve(txn,[txn.graph.version(v.uuids[p]) for p in (a2,b2)],["data"]))
    c=v._begun(r.child,(a2,b2))
    print("resolved",r.conflicts)
    v.read(c,show)
    print([p for p in check_store(engine,deep=True,verifier=lambda n: registry()[n].verify).problems])
